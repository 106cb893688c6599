"""Sweeps as MLflow holds them, made without training: what a report is tried on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evals.sheet import contact_sheet
from krona.adapter.layers import AdapterConfig
from krona.exchange.adapter_file import Manifest, save_adapter
from tune.config.provenance import shared_params
from tune.config.sweep import SweepConfig
from tune.config.trial import ExperimentConfig
from tune.names import (
    BEST_STEP,
    PAPER_DEFAULT,
    PRUNED_TAG,
    SPENT,
    PastSweep,
    Point,
    RunFacts,
    best_scores,
    image_key,
)
from tune.records.ranking import Row
from tune.records.tracking import Tracker
from tune.report.gather import Trial

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
SETTINGS: dict[str, Any] = {"a1": 64, "a2": 8, "learning_rate": 0.001, "steps": 100}
SETTINGS |= {"targets": "qkvo", "init": "normal", "seed": 0}


@dataclass(frozen=True, kw_only=True)
class Told:
    """One trial: balance by step, how it ended, what differs in its settings, more metrics."""

    curve: Mapping[int, float] = field(default_factory=dict)
    state: str = "finished"
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None
    pruned: str | None = None
    slot: tuple[int, str] | None = (0, "node-a")
    """Rank and host; None leaves a trial as it was recorded before slots told their times."""
    num_params: int = 712


def record(
    tracker: Tracker,
    folder: Path,
    name: str,
    trials: Sequence[Told],
    *,
    subject: str = "duck",
    prompts: Sequence[str] = ("a {} in the jungle", "a red {}"),
    px: int = 64,
) -> PastSweep:
    """Write a sweep whose last trial is the paper's default; all that finished have adapters."""
    config = SweepConfig(experiment=ExperimentConfig(subject=subject))
    sweep = tracker.start_sweep(
        subject, name, params=shared_params(config), tags={"version.torch": "2.15.0"}
    )
    asked = [prompt.format("sks bird") for prompt in prompts]
    for number, told in enumerate(trials):
        tags = {PAPER_DEFAULT: "true"} if number == len(trials) - 1 else {}
        run = tracker.trial_run(sweep, f"{number:03d}", SETTINGS | told.settings, tags=tags)
        for step, value in told.curve.items():
            scores = {"balance": value, "subject": value + 0.1, "prompt": value - 0.1}
            images = [(image_key(p), picture(number, step, px)) for p in asked]
            numbers = {**scores, "num_params": told.num_params}
            if told.slot:
                numbers |= dict.fromkeys(SPENT, step / 1e5) | {"slot": told.slot[0]}
            if value == max(told.curve.values()):
                numbers |= best_scores(scores) | {BEST_STEP: step}
            tracker.log_report(run, step, numbers, images)
        if told.metrics:
            tracker.log_report(run, max(told.curve), told.metrics)
        if told.state == "finished":
            tracker.log_adapter(run, adapter(folder, subject, prompts, max(told.curve)))
        end(tracker, run, told)
    rows = [("photos", [picture(1, 1, px)]), ("base", [picture(2, 2, px) for _ in asked])]
    tracker.log_picture(sweep.parent_id, contact_sheet(rows, columns=asked), "contact_sheet.png")
    tracker.log_dict(sweep.parent_id, {"factors": [[64, 8], [4, 16]]}, "search_space.json")
    tracker.end(sweep.parent_id, "finished")
    return PastSweep(
        run_id=sweep.parent_id, experiment_id=sweep.experiment_id, name=name, subject=subject
    )


def end(tracker: Tracker, run: str, told: Told) -> None:
    """Close a trial's run, with what it says of its slot and of why it was stopped."""
    if told.slot:
        tracker.tag(run, f"slot.{told.slot[0]}", told.slot[1])
    if told.pruned:
        tracker.tag(run, PRUNED_TAG, told.pruned)
    if told.failure:
        tracker.log_failure(run, told.failure)
    tracker.end(run, told.state)


def row(key: str = "000", **changes: object) -> Row:
    """A trial's row, without a store."""
    values = {"run_id": key, "key": key, "state": "finished", "a1": 4, "a2": 8, "steps": 50}
    values |= {"best_step": 50}
    values |= {"learning_rate": 1e-3, "targets": "qkvo", "init": "normal", "scores": {}}
    values |= {"num_params": 10, "is_paper_default": False, "failure": None}
    return Row(**(values | changes))


def trial(
    curves: Mapping[str, tuple[Point, ...]],
    *,
    start: float,
    end: float,
    tags: Mapping[str, str] | None = None,
    **more: object,
) -> Trial:
    """A trial by its curves, without a store."""
    facts = RunFacts(params={}, tags=tags or {}, started_s=start, ended_s=end)
    values = {"row": row(), "metrics": {}, "curves": curves, "facts": facts, "images": {}}
    return Trial(**(values | more))


def picture(number: int, step: int, px: int) -> Image.Image:
    """A picture as hard to compress as a photo: smooth, with some noise in it."""
    rng = np.random.default_rng([number, step])
    coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((px, px), Image.Resampling.BICUBIC)).astype(np.float32)
    noise = rng.normal(0, 6, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def adapter(folder: Path, subject: str, prompts: Sequence[str], steps: int) -> Path:
    """A real adapter file of one layer."""
    path = folder / "adapter.safetensors"
    manifest = Manifest(
        config=AdapterConfig(factors=(1, 2)),
        base_model="toyland",
        base_hash="0",
        family="sd",
        prediction_type="epsilon",
        subject=subject,
        class_noun="bird",
        identifier="sks",
        prompts=tuple(prompts),
        steps=steps,
        seed=0,
        learning_rate=0.001,
    )
    state = {f"{LAYER}.A": torch.tensor([[1.0, 2.0]]), f"{LAYER}.B": torch.eye(2)}
    save_adapter(path, state, manifest)
    return path
