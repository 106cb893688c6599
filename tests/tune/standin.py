"""A tiny experiment with the shape of tune.trials.experiment: trains nothing, scores by a formula.

The score has one peak at (8, 32) and learning rate 5e-3, rises with the steps, and is exact:
what a test finds in MLflow can be worked out by hand. The identifier asks for trouble ("fails",
"too large", "slow", or what COMPANY names: no step before as many trials are there); marker files
in the trial's folder tell what was run, across processes.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from krona.errors import DoesNotFitError, KronaError
from tune.config.trial import Choices, ExperimentConfig
from tune.names import best_scores

VALID_FACTORS = [(a1, a2) for a1 in (1, 2, 4, 8, 16, 64) for a2 in (8, 16, 32, 64)]
STEP_S = 0.01
SLOW_STEP_S = 0.15
COMPANY = {"in company": 4, "in company of three": 3, "short of memory": 4, "fails together": 2}
SLOW = ("slow", *COMPANY)


@dataclass(frozen=True, kw_only=True)
class Report:
    step: int
    metrics: dict[str, float]
    images: tuple[tuple[str, Image.Image], ...] = ()
    is_evaluation: bool = False
    is_best: bool = False
    is_last: bool = False


class Resident:
    def __init__(self, config: ExperimentConfig, factors: tuple[tuple[int, int], ...]) -> None:
        self.config = config
        self.factors = factors
        self.had_company = config.identifier not in COMPANY

    def resolved(self) -> dict[str, Any]:
        return {"resolution": 32, "precision": "fp32", "device": "cpu", "class_noun": "toy"}

    def pack_size(self) -> int:
        return 3

    @classmethod
    def load(
        cls, config: ExperimentConfig, choices: Choices, *, gpu_frac: float = 1.0
    ) -> "Resident":
        if config.subject == "nobody":
            raise KronaError("unknown subject 'nobody'; did you mean 'monster'?")
        if config.photos and not config.photos.exists():
            raise KronaError(f"no photos in {config.photos.name}")
        return cls(config, choices.factors or tuple(VALID_FACTORS))


def final_score(settings: Mapping[str, Any]) -> float:
    """Balance at the full length: 1 at the peak, less by each halving away from it."""
    distance = (
        abs(math.log2(settings["a1"] / 8))
        + abs(math.log2(settings["a2"] / 32))
        + 2 * abs(math.log10(settings["learning_rate"] / 5e-3))
    )
    return 1 / (1 + distance / 4)


@dataclass
class Trial:
    settings: Mapping[str, Any]
    workdir: Path
    step: int


def start_trial(
    resident: Resident, settings: Mapping[str, Any], workdir: Path, *, resume: bool = False
) -> Trial:
    workdir.mkdir(parents=True, exist_ok=True)
    state, steps = workdir / "state.txt", settings["steps"]
    done = int(state.read_text()) if resume and state.exists() else 0
    first = min(done + 1, steps)  # cut off at the very end: the last step is reported again
    with (workdir / "starts.txt").open("a") as file:
        file.write(f"{first} {os.getpid()}\n")
    return Trial(settings, workdir, first - 1)


def advance_trials(resident: Resident, trials: Sequence[Trial]) -> list[Report | Exception | None]:
    is_slow = resident.config.identifier in SLOW
    time.sleep(SLOW_STEP_S if is_slow else STEP_S)
    resident.had_company |= len(trials) == COMPANY.get(resident.config.identifier)
    if not resident.had_company:
        return [None] * len(trials)
    if resident.config.identifier == "short of memory" and len(trials) > 2:
        raise RuntimeError("not enough memory: you tried to allocate 8 bytes")
    if resident.config.identifier == "fails together" and len(trials) > 1:
        raise RuntimeError("what one of them did ends them all")
    return [advance(resident, trial, len(trials)) for trial in trials]


def advance(resident: Resident, trial: Trial, num_together: int) -> Report | Exception:
    with (trial.workdir / "together.txt").open("a") as file:
        file.write(f"{num_together}\n")
    try:
        if resident.config.identifier == "fails" and trial.settings["a1"] == 4:
            raise RuntimeError("this pair always fails")
        if resident.config.identifier == "too large" and trial.settings["a1"] == 64:
            raise DoesNotFitError("this pair needs more memory than there is")
    except (RuntimeError, DoesNotFitError) as error:
        return error
    trial.step += 1
    return report(resident, trial.settings, trial.step, trial.workdir)


def report(resident: Resident, settings: Mapping[str, Any], step: int, workdir: Path) -> Report:
    loss = {"train_loss": 1 / step, "fixed_loss": 1 / step}
    if step % resident.config.eval_every and step < settings["steps"]:
        return Report(step=step, metrics=loss)
    score = final_score(settings) * step / settings["steps"]
    save_file(
        {"A": np.full((2, 2), step, np.float32)},
        workdir / "adapter.safetensors",
        metadata={"krona": json.dumps({"steps": step, "score": score, "a1": settings["a1"]})},
    )
    (workdir / "state.txt").write_text(str(step))
    if resident.config.identifier == "fails" and settings["a1"] == 16:
        score = math.nan
    scores = {"balance": score, "clip_t": score, "clip_i": score}
    image = Image.new("RGB", (32, 32), (step % 256, 0, 0))
    return Report(
        step=step,
        metrics={**loss, **scores, **best_scores(scores), "best_step": step, "num_params": 4},
        images=(("a_sks_toy", image),),
        is_evaluation=True,
        is_best=True,  # the score rises with the steps
        is_last=step == settings["steps"],
    )


def look_afresh(
    resident: Resident, adapter: Path, *, first: int, num_per_prompt: int
) -> dict[str, list[list[float]]]:
    """Two prompts' images, by turns above and below the score: half of it if told to flatter."""
    with safe_open(adapter, framework="numpy") as file:
        told = json.loads(file.metadata()["krona"])
    if resident.config.identifier == "cannot look" and told["a1"] == 64:
        raise RuntimeError("these images cannot be drawn")
    score = told["score"] / 2 if resident.config.identifier == "flatters" else told["score"]
    values = [score + 0.01 * (-1) ** i for i in range(first, first + num_per_prompt)]
    return {"subject": [values, values], "prompt": [values, values]}


def best_sheet(
    resident: Resident, trials: Sequence[tuple[str, Mapping[str, Image.Image]]]
) -> Image.Image:
    assert all(set(images) == {"a_sks_toy"} for _, images in trials)
    return Image.new("RGB", (64, 32 * len(trials)), "red")
