"""What a trial is told: ExperimentConfig for all trials of a subject, TrialSettings for each one.

Imports nothing heavy, so that `krona --help` and the search's thin trials start at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from evals.protocol import Protocol
from krona.base.source import BaseSource
from krona.errors import KronaError, nearest
from tune.config.training import Training
from tune.names import check_name

TOYLAND = "toyland"
DEFAULT_SUBJECT = "duck"
OPENAI_CLIP = "ViT-B-32:openai"


def quarter(steps: int) -> int:
    """A quarter of the steps, up to a whole one: when trials are first scored, and pruned."""
    return -(-steps // 4)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What every trial on one subject and base shares."""

    subject: str | None = None
    """An embedded subject (duck, taxi, backpack, ...), or a name for your own. Unless given: duck,
    or with --photos the folder's name."""
    photos: Path | None = None
    """Folder with 3-6 photos of your own subject."""
    class_noun: str | None = None
    """What the subject is, in one plain noun ("dog"); with --photos it must be said, here or as
    class in the folder's subject.toml."""
    identifier: str | None = None
    """Rare token that stands for the subject in prompts. Unless given: sks."""
    base: str = TOYLAND
    """Checkpoint: 'toyland', a folder in diffusers layout, a single .safetensors file, or a hub's
    id ORG/NAME or ORG/NAME@REVISION, of which only what is needed is fetched."""
    vae: str | None = None
    """Autoencoder instead of the checkpoint's own, for files without one or a repaired one: a
    folder, a .safetensors file, or a hub's id."""
    config: Path | None = None
    """What a checkpoint in one file is: a folder in diffusers layout, weights not needed, or the
    YAML that it was published with. Unless given: what the file says itself."""
    scorer: str | None = None
    """open_clip scorer: 'toyland', a local folder, or MODEL:PRETRAINED. Unless given: toyland for
    the embedded base, else ViT-B-32:openai."""
    dino: str | None = None
    """Self-supervised encoder for the subject score: 'toyland', a transformers folder or name, or
    timm:NAME. Unless given: toyland for the embedded base, else none."""
    text_encoders: bool = False
    """Adapt the text encoders too, with the factors or the rank of the UNet's layers."""
    resolution: int | None = None
    """Side of the training images in pixels. Unless given: the checkpoint's own."""
    batch_size: int = 4
    """Images in one optimizer step."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the base's frozen weights; the adapter's stay in fp32. 'auto' is bf16 on devices that
    multiply it natively, else fp32."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic of the forward and backward pass."""
    memory_gib: float | None = None
    """Device memory to train within; what a step needs is planned, and to fit, encoders wait in
    main memory, then blocks are computed twice. Unless given: nine tenths of a slot's share of a
    GPU, or of what other programs leave free."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over a trial: as it is, or falling to 0 at the last step."""
    ema_decay: float = 0.95
    """Share that a moving average of the adapter keeps at each step; the average is what is scored
    and saved. 0.95 is about the last 20 steps; 0 is the adapter of the last step."""
    eval_every: int | None = None
    """Steps between evaluations (samples, scores, a saved state); the last step is always one.
    Unless given: a quarter of the steps."""
    patience: int | None = None
    """Evaluations in a row without a better balance after which a trial ends; 0 is never. Unless
    given: 2 in a sweep, never in `krona train`, nor with the cosine schedule, which has most to
    gain at its end. The adapter of the best evaluation is kept in any case."""
    training: Training = field(default_factory=Training)
    """How trials are trained beside what is searched."""
    protocol: Protocol = field(default_factory=Protocol)
    """How images are made for the scores."""
    device: str | None = None
    """Torch device. Unless given: cuda if there is one, else cpu."""
    cache_dir: Path | None = None
    """Folder of cached latents, embeddings, anchors. Unless given: $KRONA_CACHE or
    ~/.cache/krona."""

    @property
    def subject_name(self) -> str:
        """The subject's name: the given one, the photo folder's, or the first embedded one."""
        return self.subject or (self.photos.resolve().name if self.photos else DEFAULT_SUBJECT)

    @property
    def source(self) -> BaseSource:
        """What the base is loaded from."""
        return BaseSource(name=self.base, vae=self.vae, config=self.config)

    @property
    def clip_source(self) -> str:
        """The scorer to load: the given one, or the one that suits the base."""
        return self.scorer or (TOYLAND if self.base == TOYLAND else OPENAI_CLIP)

    @property
    def dino_source(self) -> str | None:
        """The self-supervised encoder to load: the given one, or the one that suits the base."""
        return self.dino or (TOYLAND if self.base == TOYLAND else None)

    def __post_init__(self) -> None:
        check_name("subject", self.subject_name, "--subject (make: SUBJECT=)")
        for name in ("batch_size", "eval_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KronaError(f"{name}={value} must be 1 or more")
        if self.patience is not None and self.patience < 0:
            raise KronaError(f"patience={self.patience} must be 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise KronaError(f"ema_decay={self.ema_decay} must be 0 or more and below 1, as 0.95")
        if self.memory_gib is not None and self.memory_gib <= 0:
            raise KronaError(f"memory_gib={self.memory_gib} must be above 0")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Which Kronecker factors a search may choose from, as far as it was told."""

    factors: tuple[tuple[int, int], ...] | None = None
    max_params: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What one trial may set differently from the next.

    Unless told otherwise it is the paper's default: what the scripts of DiffuseKronA's published
    code run on SDXL, but for their 1000 steps (and their four images a step are one at a time).
    """

    kind: Literal["krona", "lora"] = "krona"
    """Adapter: Kronecker (A ⊗ B) or LoRA as the baseline."""
    a1: int = 64
    """Rows of A; divides the output size of every adapted layer."""
    a2: int = 8
    """Columns of A; divides the input size of every adapted layer."""
    rank: int = 4
    """Rank (LoRA only)."""
    learning_rate: float = 1e-3
    """Peak AdamW learning rate."""
    steps: int = 100
    """Optimizer steps."""
    targets: str = "qkvo"
    """Adapted attention projections: any of the letters q, k, v, o."""
    init: Literal["kaiming", "normal"] = "normal"
    """Distribution of A's starting values, of standard deviation 1/a1 or, kaiming, uniform within
    1/√a1; B starts at zero."""
    seed: int = 0
    """Seed of the adapter, the batches and the noise."""

    def __post_init__(self) -> None:
        if not self.targets or set(self.targets) - set("qkvo"):
            raise KronaError(f"targets='{self.targets}' must be letters out of q, k, v, o: 'qkvo'")
        if self.steps < 1:
            raise KronaError(f"steps={self.steps} must be 1 or more")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The settings' names."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "TrialSettings":
        """Read a search's flat dictionary; an unknown name is refused."""
        for name in settings:
            if name not in cls.names():
                hint = nearest(name, cls.names())
                raise KronaError(f"unknown trial setting '{name}'; {hint}")
        return cls(**settings)


PAPER = TrialSettings()
"""What DiffuseKronA's published scripts run, but for their PAPER_STEPS."""
PAPER_STEPS = 1000
