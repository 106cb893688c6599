"""One trial, start to end: resident base and photos plus settings in, a stream of reports out.

`krona train` runs it in the terminal, a slot runs it for the search; neither knows the other.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from krona.inject import Adapter, attention_linears, inject
from krona.kron import valid_factors
from krona.photos import Photos, load_photos
from krona.subject import Subject, load_subject
from krona.train.config import TrainConfig
from krona.train.data import TrainData, prepare_data
from krona.train.loop import Record, train
from krona.train.state import TrainState
from tune.config import ExperimentConfig, TrialSettings
from tune.records import image_key

ADAPTER_FILE = "adapter.safetensors"
STATE_FILE = "state.safetensors"


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


def run_experiment(
    resident: Resident, settings: Mapping[str, Any], workdir: Path, *, resume: bool = False
) -> Iterator[Report]:
    """Train and score one adapter; the base is as before when the generator ends or is closed.

    Args:
        settings: fields of TrialSettings.
        workdir: gets adapter.safetensors and state.safetensors at each evaluation.
        resume: continue from workdir's state, if there is one; the result is bit-equal.
    Yields: a Report for each record of the training loop; evaluations carry scores and images.
    Raises: KronaError for bad settings, NonFiniteLossError if training diverges.
    """
    trial = TrialSettings.from_dict(settings)
    config = resident.train_config(trial)
    data = prepare_data(resident.base, resident.subject, resident.photos, config, resident.cache)
    adapter = inject(resident.base.unet, config.adapter, seed=trial.seed)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        yield from _reports(resident, trial, config, data, adapter, workdir, resume=resume)
    finally:
        adapter.eject()


def _reports(
    resident: Resident,
    trial: TrialSettings,
    config: TrainConfig,
    data: TrainData,
    adapter: Adapter,
    workdir: Path,
    *,
    resume: bool,
) -> Iterator[Report]:
    state_path = workdir / STATE_FILE
    if resume and state_path.exists():
        state = TrainState.load(state_path, adapter, config)
    else:
        state = TrainState.create(adapter, config)
    for record in train(resident.base, data, state, config):
        if record.step % resident.eval_every(trial) and record.step < config.steps:
            yield Report(step=record.step, metrics=_metrics(record))
            continue
        evaluation = resident.scorer.evaluate(resident.base)
        manifest = resident.manifest(trial, step=record.step)
        save_adapter(workdir / ADAPTER_FILE, adapter.state_dict(), manifest)
        state.save(state_path)
        yield Report(
            step=record.step,
            metrics=_metrics(record) | evaluation.metrics() | {"num_params": adapter.num_params},
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
