"""How trials are trained beside what is searched: options of the loss and the optimizer, checked.

Imports nothing heavy; krona.train.config.TrainConfig is what they become.
"""

import math
from dataclasses import dataclass

from krona.errors import KronaError


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of the loss and the optimizer, under TrainConfig's names."""

    accumulation_steps: int = 1
    """Forward passes summed in one optimizer step: batch size times this is what it learns from."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises linearly to its peak."""
    weight_decay: float = 0.01
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """The gradient of all factors together is scaled down to this norm."""
    min_snr_gamma: float | None = None
    """Clamp of Min-SNR loss weighting (Hang et al. 2023; 5 is usual). Unless given: every timestep
    weighs the same."""
    prior_weight: float = 0.0
    """Weight of DreamBooth's prior preservation: the loss on images of the plain class that the
    base draws first. 1 is DreamBooth's; 0 is off, as in the paper's scripts. It doubles a step."""
    num_class_images: int = 100
    """Images of the plain class, with a prior weight."""

    def __post_init__(self) -> None:
        for name in ("accumulation_steps", "num_class_images"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("warmup_steps", "weight_decay", "prior_weight"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "0 or more and finite")
        for name in ("max_grad_norm", "min_snr_gamma"):
            value = getattr(self, name)
            self._check(name, value is None or 0 < value < math.inf, "above 0 and finite")

    def _check(self, name: str, is_valid: bool, wanted: str) -> None:
        if not is_valid:
            raise KronaError(f"{name}={getattr(self, name)} must be {wanted}")
