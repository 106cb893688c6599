"""What a slot keeps from trial to trial: settings in; frozen base, photos, scorer, caches out."""

import torch

from evals.encoders import load_clip, load_dino
from evals.scorer import Scorer
from krona.adapter import AdapterConfig, Projection
from krona.adapter_file import Manifest
from krona.budget import GIB, device_budget, fit_budget
from krona.cache import Cache, default_cache_dir
from krona.checkpoint import DTYPES, Base, Precision, Savings, load_base, native_precision
from krona.inject import adapted_linears
from krona.kron import divisors, valid_factors
from krona.photos import Photos, load_photos
from krona.plan import PlanConfig
from krona.subject import Subject, load_subject
from krona.train.config import TrainConfig
from krona.train.data import prepare_data
from krona.train.pack_size import best_pack_size
from tune.checks import check_device
from tune.config import ExperimentConfig, TrialSettings, quarter

STEPS_OF_A_REPORT = 20  # the fixed loss of a report costs as much as two steps
MOST_PACKED = 8  # TPE and pruning learn little from trials that all started at once


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
        """Every (a1, a2) that divides all layers that an adapter may go on."""
        config = self.adapter_config(TrialSettings())
        layers = adapted_linears(self.base.network, config).values()
        return valid_factors((layer.out_features, layer.in_features) for layer in layers)

    @classmethod
    def load(cls, config: ExperimentConfig) -> "Resident":
        """Read the checkpoint, photos and encoders; compute or fetch what the cache can hold."""
        check_device(config.device)
        cache = Cache(config.cache_dir or default_cache_dir())
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        subject = load_subject(
            config.subject_name,
            photos=config.photos,
            class_noun=config.class_noun,
            identifier=config.identifier,
        )
        base = load_base(
            config.base,
            device=device,
            dtype=DTYPES[_precision(config, device)],
            savings=_savings(config, device),
        )
        photos = load_photos(subject.photos_dir, resolution=config.resolution or base.resolution)
        for said in photos.captions:
            subject.caption(said)  # a wrong one ends it here, and not each trial
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

    def adapter_config(self, trial: TrialSettings) -> AdapterConfig:
        """The adapter that a trial's settings describe."""
        targets: tuple[Projection, ...] = tuple(
            p for p in ("q", "k", "v", "o") if p in trial.targets
        )
        return AdapterConfig(
            kind=trial.kind,
            factors=(trial.a1, trial.a2),
            rank=trial.rank,
            targets=targets,
            init=trial.init,
            adapts_text=self.config.text_encoders,
        )

    def train_config(self, settings: TrialSettings) -> TrainConfig:
        """The training run that `settings` describe on this base."""
        return TrainConfig(
            adapter=self.adapter_config(settings),
            learning_rate=settings.learning_rate,
            steps=settings.steps,
            batch_size=self.config.batch_size,
            schedule=self.config.schedule,
            ema_decay=self.config.ema_decay,
            mixed_precision=self.config.mixed_precision,
            seed=settings.seed,
            report_every=report_every(self.eval_every(settings)),
            resolution=self.config.resolution,
        )

    def eval_every(self, settings: TrialSettings) -> int:
        """Steps between evaluations: as configured, or a quarter of the trial's steps."""
        return self.config.eval_every or quarter(settings.steps)

    def pack_size(self) -> int:
        """How many trials train fastest together here, measured with the paper's adapter."""
        config = self.train_config(TrialSettings())
        data = prepare_data(self.base, self.subject, self.photos, config, self.cache)
        budget_bytes = _budget_bytes(self.config, self.base.device)
        return best_pack_size(self.base, data, config, most=MOST_PACKED, budget_bytes=budget_bytes)

    def manifest(self, settings: TrialSettings, *, step: int) -> Manifest:
        """What an adapter file says of where it comes from."""
        base, subject = self.base, self.subject
        return Manifest(
            config=self.adapter_config(settings),
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


def report_every(eval_every: int) -> int:
    """The steps between reports, about STEPS_OF_A_REPORT; every evaluation is one of them."""
    return next(n for n in divisors(eval_every) if n >= min(STEPS_OF_A_REPORT, eval_every))


def _precision(config: ExperimentConfig, device: str) -> Precision:
    return native_precision(device) if config.precision == "auto" else config.precision


def _savings(config: ExperimentConfig, device: str) -> Savings:
    """What keeps a trial within the memory budget; the size of its adapter hardly matters."""
    plan = PlanConfig(
        adapter=AdapterConfig(kind="lora", adapts_text=config.text_encoders),
        resolution=config.resolution,
        batch_size=config.batch_size,
        precision=_precision(config, device),
        mixed_precision=config.mixed_precision,
    )
    return fit_budget(config.base, plan, _budget_bytes(config, device))


def _budget_bytes(config: ExperimentConfig, device: str | torch.device) -> int | None:
    """Device memory to train within, None for no limit."""
    return device_budget(device) if config.memory_gib is None else int(config.memory_gib * GIB)
