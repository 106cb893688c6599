"""Trials, start to end: resident base and photos plus settings in, a stream of reports out.

`krona train` runs it in the terminal, a slot runs it for the search; neither knows the other.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evals.encoders import load_clip, load_dino
from evals.scorer import Evaluation, Scorer, photo_images
from evals.sheet import contact_sheet
from krona.adapter import AdapterConfig, Projection
from krona.adapter_file import Manifest, save_adapter
from krona.attach import attach
from krona.cache import Cache, default_cache_dir
from krona.checkpoint import Base, base_dtype, load_base
from krona.inject import attention_linears, make_adapter
from krona.kron import valid_factors
from krona.photos import Photos, load_photos
from krona.subject import Subject, load_subject
from krona.train.config import TrainConfig
from krona.train.data import prepare_data
from krona.train.loop import Record, Run, advance
from krona.train.pack_size import best_pack_size
from krona.train.state import TrainState
from tune.config import ExperimentConfig, TrialSettings
from tune.records import image_key

ADAPTER_FILE = "adapter.safetensors"
STATE_FILE = "state.safetensors"
MOST_PACKED = 8  # TPE and pruning learn little from trials that all started at once


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial says at a step: metrics always, images and scores at evaluations."""

    step: int
    metrics: dict[str, float]
    images: tuple[tuple[str, Image.Image], ...] = ()
    is_evaluation: bool = False


class Resident:
    """What stays loaded from trial to trial: frozen base, photos, scorer, caches."""

    def __init__(
        self,
        config: ExperimentConfig,
        *,
        base: Base,
        subject: Subject,
        photos: Photos,
        scorer: Scorer,
        cache: Cache,
    ) -> None:
        self.config = config
        self.base = base
        self.subject = subject
        self.photos = photos
        self.scorer = scorer
        self.cache = cache

    @property
    def valid_factors(self) -> list[tuple[int, int]]:
        """Every (a1, a2) that divides all attention projections of the base."""
        layers = attention_linears(self.base.unet).values()
        return valid_factors((layer.out_features, layer.in_features) for layer in layers)

    @classmethod
    def load(cls, config: ExperimentConfig) -> "Resident":
        """Read the checkpoint, photos and encoders; compute or fetch what the cache can hold."""
        cache = Cache(config.cache_dir or default_cache_dir())
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        subject = load_subject(
            config.subject_name,
            photos=config.photos,
            class_noun=config.class_noun,
            identifier=config.identifier,
        )
        base = load_base(config.base, device=device, dtype=base_dtype(config.precision, device))
        photos = load_photos(subject.photos_dir, resolution=config.resolution or base.resolution)
        dino = config.dino_source
        scorer = Scorer(
            base,
            subject,
            photos,
            clip=load_clip(config.clip_source, device=device),
            dino=load_dino(dino, device=device) if dino else None,
            protocol=config.protocol,
            cache=cache,
        )
        return cls(config, base=base, subject=subject, photos=photos, scorer=scorer, cache=cache)

    def train_config(self, settings: TrialSettings) -> TrainConfig:
        """The training run that `settings` describe on this base."""
        return TrainConfig(
            adapter=adapter_config(settings),
            learning_rate=settings.learning_rate,
            steps=settings.steps,
            batch_size=self.config.batch_size,
            schedule=self.config.schedule,
            mixed_precision=self.config.mixed_precision,
            seed=settings.seed,
            report_every=math.gcd(10, self.eval_every(settings)),
            resolution=self.config.resolution,
        )

    def eval_every(self, settings: TrialSettings) -> int:
        """Steps between evaluations: as configured, or a quarter of the trial's steps."""
        return self.config.eval_every or -(-settings.steps // 4)

    def pack_size(self) -> int:
        """How many trials train fastest together here, measured with the paper's adapter."""
        config = self.train_config(TrialSettings())
        data = prepare_data(self.base, self.subject, self.photos, config, self.cache)
        return best_pack_size(self.base, data, config, most=MOST_PACKED)

    def manifest(self, settings: TrialSettings, *, step: int) -> Manifest:
        """What an adapter file says of where it comes from."""
        base, subject = self.base, self.subject
        return Manifest(
            config=adapter_config(settings),
            base_model=base.source,
            base_hash=base.content_hash,
            family=base.family,
            prediction_type=base.prediction_type,
            subject=subject.name,
            class_noun=subject.class_noun,
            identifier=subject.identifier,
            prompts=subject.prompts,
            steps=step,
            seed=settings.seed,
            learning_rate=settings.learning_rate,
        )


def best_sheet(resident: Resident, adapters: Sequence[tuple[str, Path]]) -> Image.Image:
    """Draw the photos, the base and each adapter, a row each, equal in prompts and noise.

    Args:
        adapters: (label, adapter file) of each row after the first two.
    """
    scorer, base = resident.scorer, resident.base
    rows = [("photos", photo_images(resident.photos))]
    rows.append(("base, no adapter", list(scorer.evaluate(base).images)))
    for label, path in adapters:
        adapter = attach(base, path)
        try:
            rows.append((label, list(scorer.evaluate(base).images)))
        finally:
            adapter.eject()
    num_each = scorer.protocol.images_per_prompt
    prompts = [p for p in resident.subject.instance_prompts for _ in range(num_each)]
    return contact_sheet(rows, columns=prompts)


def adapter_config(trial: TrialSettings) -> AdapterConfig:
    """The adapter that a trial's settings describe."""
    targets: tuple[Projection, ...] = tuple(p for p in ("q", "k", "v", "o") if p in trial.targets)
    return AdapterConfig(
        kind=trial.kind,
        factors=(trial.a1, trial.a2),
        rank=trial.rank,
        targets=targets,
        init=trial.init,
    )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One adapter on its way from first to last step; the base holds it only while it advances."""

    settings: TrialSettings
    run: Run
    workdir: Path


def start_trial(
    resident: Resident, settings: Mapping[str, Any], workdir: Path, *, resume: bool = False
) -> Trial:
    """Make a trial that stands before its first step, or at its last saved one.

    Args:
        settings: fields of TrialSettings.
        workdir: gets adapter.safetensors and state.safetensors at each evaluation.
        resume: continue from workdir's state, if there is one; the result is bit-equal.
    Raises: KronaError for bad settings.
    """
    trial = TrialSettings.from_dict(settings)
    config = resident.train_config(trial)
    data = prepare_data(resident.base, resident.subject, resident.photos, config, resident.cache)
    adapter = make_adapter(resident.base.unet, config.adapter, seed=trial.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    state_path = workdir / STATE_FILE
    make = TrainState.create
    if resume and state_path.exists():
        make = partial(TrainState.load, state_path)
    return Trial(settings=trial, run=Run(data, make(adapter, config), config), workdir=workdir)


def advance_trials(resident: Resident, trials: Sequence[Trial]) -> list[Report | Exception | None]:
    """Train trials together up to the next report of any; evaluations carry scores and images.

    A trial that was resumed at its last step is only scored, so that its end is told.
    Returns: for each trial its report, or what ended it, or None if it has nothing to say yet.
    Raises: what concerns them all, such as torch.OutOfMemoryError; they are then as before.
    """
    is_open = [trial for trial in trials if not trial.run.is_done]
    records = advance(resident.base, [trial.run for trial in is_open]) if is_open else []
    said = dict(zip(map(id, is_open), records, strict=True))
    evaluations = _evaluate(
        resident, [trial for trial in trials if _is_evaluated(resident, trial, said.get(id(trial)))]
    )
    return [
        _outcome(resident, trial, said.get(id(trial)), evaluations.get(id(trial)))
        for trial in trials
    ]


def run_experiment(
    resident: Resident, settings: Mapping[str, Any], workdir: Path, *, resume: bool = False
) -> Iterator[Report]:
    """Train and score one adapter by itself; the arguments are start_trial()'s.

    Yields: a Report for each record of the training loop.
    Raises: KronaError for bad settings, NonFiniteLossError if training diverges.
    """
    trial = start_trial(resident, settings, workdir, resume=resume)
    is_done = False
    while not is_done:
        (outcome,) = advance_trials(resident, [trial])
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            yield outcome
        is_done = trial.run.is_done


def _is_evaluated(resident: Resident, trial: Trial, record: object) -> bool:
    is_at_evaluation = trial.run.state.step % resident.eval_every(trial.settings) == 0
    return trial.run.is_done or (isinstance(record, Record) and is_at_evaluation)


def _evaluate(resident: Resident, trials: Sequence[Trial]) -> dict[int, Evaluation]:
    """The evaluation of each trial by its id(), sampled together where memory allows it."""
    adapters = [trial.run.state.adapter for trial in trials]
    if not adapters:
        return {}
    try:
        evaluations = resident.scorer.evaluate_each(resident.base, adapters)
    except torch.OutOfMemoryError:
        if len(trials) == 1:
            raise
        return {key: e for t in trials for key, e in _evaluate(resident, [t]).items()}
    return {id(trial): e for trial, e in zip(trials, evaluations, strict=True)}


def _outcome(
    resident: Resident,
    trial: Trial,
    record: Record | Exception | None,
    evaluation: Evaluation | None,
) -> Report | Exception | None:
    """Tell of a record; at an evaluation also save adapter and state."""
    if isinstance(record, Exception):
        return record
    metrics = {} if record is None else _metrics(record)
    step = trial.run.state.step
    if evaluation is None:
        return None if record is None else Report(step=step, metrics=metrics)
    adapter = trial.run.state.adapter
    try:
        manifest = resident.manifest(trial.settings, step=step)
        save_adapter(trial.workdir / ADAPTER_FILE, adapter.state_dict(), manifest)
        trial.run.state.save(trial.workdir / STATE_FILE)
    except Exception as error:
        return error
    return Report(
        step=step,
        metrics=metrics | evaluation.metrics() | {"num_params": adapter.num_params},
        images=_keyed_images(evaluation),
        is_evaluation=True,
    )


def _metrics(record: Record) -> dict[str, float]:
    return {name: value for name, value in asdict(record).items() if name != "step"}


def _keyed_images(evaluation: Evaluation) -> tuple[tuple[str, Image.Image], ...]:
    """The first image of each prompt under a key that a tracker accepts."""
    first = dict(reversed(list(zip(evaluation.prompts, evaluation.images, strict=True))))
    ordered = dict.fromkeys(evaluation.prompts)
    return tuple((image_key(prompt), first[prompt]) for prompt in ordered)
