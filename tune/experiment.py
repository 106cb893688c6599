"""One trial, start to end: resident base and photos plus settings in, a stream of reports out.

`krona train` runs it in the terminal, a slot runs it for the search; neither knows the other.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from evals.encoders import TOYLAND, load_clip, load_dino
from evals.scorer import Evaluation, Protocol, Scorer
from krona.adapter import AdapterConfig, Projection
from krona.adapter_file import Manifest, save_adapter
from krona.cache import Cache, default_cache_dir
from krona.checkpoint import Base, load_base
from krona.errors import KronaError, nearest
from krona.inject import Adapter, inject
from krona.photos import Photos, load_photos
from krona.subject import Subject, load_subject
from krona.train import Record, TrainConfig, TrainData, TrainState, prepare_data, train

ADAPTER_FILE = "adapter.safetensors"
STATE_FILE = "state.safetensors"
OPENAI_CLIP = "ViT-B-32:openai"


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What every trial on one subject and base shares."""

    subject: str = "monster"
    """Name of an embedded subject (monster, duck, backpack, teapot), or of your own."""
    photos: Path | None = None
    """Folder with 3-6 photos of your own subject."""
    class_noun: str | None = None
    """What the subject is, in one plain noun ("dog"); required with --photos."""
    identifier: str | None = None
    """Rare token that stands for the subject in prompts [default: sks]."""
    base: str = TOYLAND
    """Checkpoint: 'toyland', a folder in diffusers layout, or a single .safetensors file."""
    scorer: str | None = None
    """open_clip scorer: 'toyland', a local folder, or MODEL:PRETRAINED
    [default: toyland for the embedded base, else ViT-B-32:openai]."""
    dino: str | None = None
    """DINO encoder for the subject score: a transformers folder or name, or timm:NAME."""
    resolution: int | None = None
    """Side of the training images in pixels [default: the checkpoint's own]."""
    batch_size: int = 4
    """Images in one optimizer step."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic of the forward and backward pass."""
    eval_every: int = 40
    """Steps between evaluations (samples, scores, a saved state); also after the last step."""
    protocol: Protocol = field(default_factory=Protocol)
    """How images are made for the scores."""
    device: str | None = None
    """Torch device [default: cuda if there is one, else cpu]."""
    cache_dir: Path | None = None
    """Folder of cached latents, embeddings and anchors [default: $KRONA_CACHE or ~/.cache/krona]."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise KronaError(f"{name}={getattr(self, name)} must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What one trial may set differently from the next."""

    kind: Literal["krona", "lora"] = "krona"
    """Adapter: Kronecker (A ⊗ B) or LoRA as the baseline."""
    a1: int = 4
    """Rows of A; divides the output size of every adapted layer."""
    a2: int = 64
    """Columns of A; divides the input size of every adapted layer."""
    rank: int = 4
    """Rank (LoRA only)."""
    learning_rate: float = 5e-4
    """Peak AdamW learning rate."""
    steps: int = 160
    """Optimizer steps."""
    targets: str = "qkvo"
    """Adapted attention projections: any of the letters q, k, v, o."""
    init: Literal["kaiming", "normal"] = "kaiming"
    """Distribution of A's starting values; B starts at zero."""
    seed: int = 0
    """Seed of the adapter, the batches and the noise."""

    def __post_init__(self) -> None:
        if not self.targets or set(self.targets) - set("qkvo"):
            raise KronaError(f"targets='{self.targets}' must be letters out of q, k, v, o: 'qkvo'")
        if self.steps < 1:
            raise KronaError(f"steps={self.steps} must be 1 or more")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "TrialSettings":
        """Read a search's flat dictionary; an unknown name is refused."""
        for name in settings:
            if name not in cls.__dataclass_fields__:
                hint = nearest(name, cls.__dataclass_fields__)
                raise KronaError(f"unknown trial setting '{name}'; {hint}")
        return cls(**settings)

    def adapter_config(self) -> AdapterConfig:
        """The adapter that these settings describe."""
        targets: tuple[Projection, ...] = tuple(p for p in ("q", "k", "v", "o") if p in self.targets)
        return AdapterConfig(
            kind=self.kind,
            factors=(self.a1, self.a2),
            rank=self.rank,
            targets=targets,
            init=self.init,
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial says at a step: metrics always, images and scores at evaluations."""

    step: int
    metrics: dict[str, float]
    images: tuple[tuple[str, Image.Image], ...] = ()
    is_evaluation: bool = False


class Resident:
    """What stays loaded from trial to trial: the frozen base, the photos, the scorer, the caches."""

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

    @classmethod
    def load(cls, config: ExperimentConfig) -> "Resident":
        """Read the checkpoint, photos and encoders; compute or fetch what the cache can hold."""
        cache = Cache(config.cache_dir or default_cache_dir())
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        subject = load_subject(
            config.subject,
            photos=config.photos,
            class_noun=config.class_noun,
            identifier=config.identifier,
        )
        base = load_base(config.base, device=device)
        photos = load_photos(subject.photos_dir, resolution=config.resolution or base.resolution)
        clip_source = config.scorer or (TOYLAND if config.base == TOYLAND else OPENAI_CLIP)
        scorer = Scorer(
            base,
            subject,
            photos,
            clip=load_clip(clip_source, device=device),
            dino=load_dino(config.dino, device=device) if config.dino else None,
            protocol=config.protocol,
            cache=cache,
        )
        return cls(config, base=base, subject=subject, photos=photos, scorer=scorer, cache=cache)

    def train_config(self, settings: TrialSettings) -> TrainConfig:
        """The training run that `settings` describe on this base."""
        return TrainConfig(
            adapter=settings.adapter_config(),
            learning_rate=settings.learning_rate,
            steps=settings.steps,
            batch_size=self.config.batch_size,
            mixed_precision=self.config.mixed_precision,
            seed=settings.seed,
            report_every=min(10, self.config.eval_every),
            resolution=self.config.resolution,
        )

    def manifest(self, settings: TrialSettings, *, step: int) -> Manifest:
        """What an adapter file says of where it comes from."""
        return Manifest.create(
            config=settings.adapter_config(),
            base=self.base,
            subject=self.subject,
            steps=step,
            seed=settings.seed,
            learning_rate=settings.learning_rate,
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
    Raises: KronaError for bad settings, NonFiniteLoss if training diverges.
    """
    trial = TrialSettings.from_dict(settings)
    config = resident.train_config(trial)
    data = prepare_data(resident.base, resident.subject, resident.photos, config, resident.cache)
    workdir.mkdir(parents=True, exist_ok=True)
    adapter = inject(resident.base.unet, config.adapter, seed=trial.seed)
    try:
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
        if record.step % resident.config.eval_every and record.step < config.steps:
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
    return tuple((re.sub(r"[^\w]+", "_", prompt), first[prompt]) for prompt in ordered)
