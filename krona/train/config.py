"""What a training run is told."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from krona.adapter.layers import AdapterConfig
from krona.errors import KronaError, check_choice

Schedule = Literal["constant", "cosine"]
Mixed = Literal["no", "bf16", "fp16"]
_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        (
            "steps",
            "batch_size",
            "accumulation_steps",
            "report_every",
            "num_fixed_pairs",
            "num_class_images",
            "resolution",
        ),
        lambda value: value >= 1,
        "1 or more",
    ),
    (
        ("learning_rate", "max_grad_norm", "eps", "min_snr_gamma"),
        lambda value: 0 < value < math.inf,
        "above 0 and finite",
    ),
    (
        ("warmup_steps", "prior_weight", "weight_decay"),
        lambda value: 0 <= value < math.inf,
        "0 or more and finite",
    ),
    (("ema_decay",), lambda value: 0 <= value < 1, "0 or more and below 1, as 0.95"),
    (("betas",), lambda pair: all(0 <= beta < 1 for beta in pair), "two of 0 or more, below 1"),
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; equal configs on equal data give bit-equal adapters."""

    adapter: AdapterConfig
    learning_rate: float = 1e-3
    """Peak rate of AdamW."""
    steps: int = 500
    """Optimizer steps."""
    batch_size: int = 4
    """Images of the subject in one forward pass; prior preservation doubles what the UNet sees."""
    accumulation_steps: int = 1
    """Forward passes summed in one optimizer step."""
    schedule: Schedule = "constant"
    """Learning rate after the warm-up: as it is, or falling to 0 at the last step."""
    warmup_steps: int = 0
    """Steps in which the rate rises linearly to its peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    """The gradient of all factors together is scaled down to this norm."""
    ema_decay: float = 0.0
    """Share that the factors' moving average keeps at a step; krona.train.state.averaged()
    brings it out. 0 keeps none."""
    min_snr_gamma: float | None = None
    """Clamp of Min-SNR loss weighting (5 is usual); every timestep weighs the same without it."""
    prior_weight: float = 0.0
    """Weight of the loss on class images that the base generated; 0 is off."""
    num_class_images: int = 100
    mixed_precision: Mixed = "no"
    """Arithmetic of the UNet; factors, optimizer and loss stay in float32."""
    seed: int = 0
    """Of batches, timesteps and noise."""
    report_every: int = 25
    """Steps between records."""
    num_fixed_pairs: int = 16
    """(timestep, noise) pairs of the fixed loss."""
    resolution: int | None = None
    """Side of the photos in pixels; the base's native one if not given."""

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, get_args(Schedule))
        check_choice("mixed_precision", self.mixed_precision, get_args(Mixed))
        for names, is_valid, wanted in _RULES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not is_valid(value):
                    raise KronaError(f"{name}={value} must be {wanted}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"adapter": self.adapter.to_dict(), "betas": list(self.betas)}
