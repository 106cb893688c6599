"""What a slot keeps from trial to trial: settings in; frozen base, photos, scorer, caches out."""

from dataclasses import asdict, replace
from typing import Any

from evals.encoders import load_clip, load_dino
from evals.scorer import Scorer
from krona.adapter.kron import divisors
from krona.adapter.layers import PROJECTIONS, AdapterConfig, Factors, Projection
from krona.base.arithmetic import DTYPES
from krona.base.checkpoint import Base
from krona.base.source import lasting
from krona.errors import nearest_pair
from krona.exchange.adapter_file import Manifest
from krona.planning.budget import fit_budget
from krona.planning.placement import Placement
from krona.planning.plan import PlanConfig
from krona.planning.room import Room, make_room
from krona.storage.cache import Cache, default_cache_dir
from krona.subject.photos import Photos, load_photos
from krona.subject.subject import Subject, load_subject
from krona.train.config import TrainConfig
from krona.train.data import prepare_data
from krona.train.pack_size import best_pack_size
from tune.config.trial import PAPER, Choices, ExperimentConfig, TrialSettings, quarter

STEPS_OF_A_REPORT = 20  # the fixed loss of a report costs as much as two steps
SMALL = TrialSettings(kind="lora")  # fits every base, and takes next to nothing
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
        factors: tuple[Factors, ...] = (),
        budget_bytes: int | None = None,
    ) -> None:
        self.config = config
        self.base = base
        self.subject = subject
        self.photos = photos
        self.scorer = scorer
        self.cache = cache
        self.factors = factors
        self.budget_bytes = budget_bytes

    @classmethod
    def load(
        cls,
        config: ExperimentConfig,
        adapters: TrialSettings | Choices = SMALL,
        *,
        gpu_frac: float = 1.0,
    ) -> "Resident":
        """Read the checkpoint, photos and encoders; compute or fetch what the cache can hold.

        Args:
            adapters: what there must be room for: one, or the largest that a search may choose.
            gpu_frac: the share of a GPU that is this process's.
        """
        place = Placement.of(config.device, config.precision, config.memory_gib, gpu_frac=gpu_frac)
        room = _room(config, adapters, place)
        cache = Cache(config.cache_dir or default_cache_dir())
        subject = load_subject(
            config.subject_name,
            photos=config.photos,
            class_noun=config.class_noun,
            identifier=config.identifier,
        )
        base = place.load(config.source, room.savings)
        photos = load_photos(subject.photos_dir, resolution=config.resolution or base.resolution)
        for said in photos.captions:
            subject.caption(said)  # a wrong one ends it here, and not each trial
        dino = config.dino_source
        scorer = Scorer(
            base,
            subject,
            photos,
            clip=load_clip(config.clip_source, device=place.device),
            dino=load_dino(dino, device=place.device) if dino else None,
            protocol=config.protocol,
            cache=cache,
        )
        return cls(
            config,
            base=base,
            subject=subject,
            photos=photos,
            scorer=scorer,
            cache=cache,
            factors=room.factors,
            budget_bytes=place.budget_bytes,
        )

    def resolved(self) -> dict[str, Any]:
        """What the options that were left open came to, by their names."""
        precisions = {dtype: name for name, dtype in DTYPES.items()}
        return {
            "class_noun": self.subject.class_noun,
            "identifier": self.subject.identifier,
            "resolution": self.config.resolution or self.base.resolution,
            "precision": precisions[self.base.dtype],
            "device": str(self.base.device),
        }

    def train_config(self, settings: TrialSettings) -> TrainConfig:
        """The training run that `settings` describe on this base."""
        return TrainConfig(
            adapter=adapter_config(self.config, settings),
            learning_rate=settings.learning_rate,
            steps=settings.steps,
            batch_size=self.config.batch_size,
            schedule=self.config.schedule,
            ema_decay=self.config.ema_decay,
            mixed_precision=self.config.mixed_precision,
            seed=settings.seed,
            report_every=report_every(self.eval_every(settings)),
            resolution=self.config.resolution,
            **vars(self.config.training),
        )

    def eval_every(self, settings: TrialSettings) -> int:
        """Steps between evaluations: as configured, or a quarter of the trial's steps."""
        return self.config.eval_every or quarter(settings.steps)

    def is_out_of_patience(self, num_steps: int, settings: TrialSettings) -> bool:
        """Whether a trial ends that has gone `num_steps` without a better balance."""
        patience = self.config.patience or 0
        return patience > 0 and num_steps >= patience * self.eval_every(settings)

    def pack_size(self) -> int:
        """How many trials train fastest together here, measured with about the paper's adapter."""
        a1, a2 = nearest_pair((PAPER.a1, PAPER.a2), self.factors)
        config = self.train_config(replace(PAPER, a1=a1, a2=a2))
        data = prepare_data(self.base, self.subject, self.photos, config, self.cache)
        return best_pack_size(
            self.base, data, config, most=MOST_PACKED, budget_bytes=self.budget_bytes
        )

    def manifest(self, settings: TrialSettings, *, step: int, balance: float) -> Manifest:
        """What an adapter file says of where it comes from."""
        base, subject, source = self.base, self.subject, lasting(self.config.source)
        return Manifest(
            config=adapter_config(self.config, settings),
            base_model=base.source,
            base_hash=base.content_hash,
            base_vae=source.vae,
            base_config=None if source.config is None else str(source.config),
            family=base.family,
            prediction_type=base.prediction_type,
            subject=subject.name,
            class_noun=subject.class_noun,
            identifier=subject.identifier,
            prompts=subject.prompts,
            steps=step,
            seed=settings.seed,
            learning_rate=settings.learning_rate,
            balance=balance,
        )


def adapter_config(config: ExperimentConfig, trial: TrialSettings) -> AdapterConfig:
    """The adapter that a trial's settings describe."""
    targets: tuple[Projection, ...] = tuple(p for p in PROJECTIONS if p in trial.targets)
    return AdapterConfig(
        kind=trial.kind,
        factors=(trial.a1, trial.a2),
        rank=trial.rank,
        targets=targets,
        init=trial.init,
        adapts_text=config.text_encoders,
    )


def report_every(eval_every: int) -> int:
    """The steps between reports, about STEPS_OF_A_REPORT; every evaluation is one of them."""
    return next(n for n in divisors(eval_every) if n >= min(STEPS_OF_A_REPORT, eval_every))


def _room(config: ExperimentConfig, adapters: TrialSettings | Choices, place: Placement) -> Room:
    """What there is room for; a single adapter is planned for whatever its size."""
    trial = adapters if isinstance(adapters, TrialSettings) else PAPER
    plan = PlanConfig(
        adapter=adapter_config(config, trial),
        resolution=config.resolution,
        batch_size=config.batch_size * (2 if config.training.prior_weight else 1),
        precision=place.precision,
        mixed_precision=config.mixed_precision,
        keeps_average=config.ema_decay > 0,
    )
    if isinstance(adapters, Choices):
        return make_room(config.source, plan, place.budget_bytes, **asdict(adapters))
    savings = fit_budget(config.source, plan, place.budget_bytes)
    return Room(factors=((trial.a1, trial.a2),), savings=savings)
