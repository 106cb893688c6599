"""Where a base works: device, precision and memory as a command names them in, the base out."""

from dataclasses import dataclass
from typing import Literal

import torch

from krona.base.checkpoint import DTYPES, Base, Precision, Savings, load_base, native_precision
from krona.errors import KronaError
from krona.planning.budget import GIB, device_budget


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A torch device, the precision of frozen weights on it, and the bytes to stay within."""

    device: str
    precision: Precision
    budget_bytes: int | None

    @classmethod
    def of(
        cls, device: str | None, precision: Literal["auto"] | Precision, memory_gib: float | None
    ) -> "Placement":
        """The placement that the options --device, --precision and --memory-gib mean.

        Raises: KronaError if torch cannot use the device here.
        """
        check_device(device)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            device=device,
            precision=native_precision(device) if precision == "auto" else precision,
            budget_bytes=device_budget(device) if memory_gib is None else int(memory_gib * GIB),
        )

    def load(self, base: str, savings: Savings) -> Base:
        """Load a checkpoint there."""
        return load_base(base, device=self.device, dtype=DTYPES[self.precision], savings=savings)


def check_device(device: str | None) -> None:
    """Raise KronaError unless torch can use the device here; None is one that it can."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        said = str(error).partition("\n")[0]
        raise KronaError(
            f"device '{device}' cannot be used here: {said}; leave --device out, or give cpu"
        ) from error
