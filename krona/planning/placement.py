"""Where a base works: device, precision and memory as a command names them in, the base out."""

from dataclasses import dataclass
from typing import Literal

import torch

from krona.base.arithmetic import DTYPES, Precision, native_precision
from krona.base.checkpoint import Base, Savings, load_base
from krona.base.source import BaseSource
from krona.errors import KronaError
from krona.planning.budget import GIB, device_budget


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A torch device, the precision of frozen weights on it, and the bytes to stay within.

    gpu_frac: the share of a GPU that is this process's; the allocator keeps it from taking more.
    """

    device: str
    precision: Precision
    budget_bytes: int | None
    gpu_frac: float = 1.0

    @classmethod
    def of(
        cls,
        device: str | None,
        precision: Literal["auto"] | Precision,
        memory_gib: float | None,
        *,
        gpu_frac: float = 1.0,
    ) -> "Placement":
        """The placement that the options --device, --precision and --memory-gib mean.

        Args:
            gpu_frac: the share of a GPU that this process may use.
        Raises: KronaError if torch cannot use the device here.
        """
        check_device(device)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            device=device,
            precision=native_precision(device) if precision == "auto" else precision,
            budget_bytes=(
                device_budget(device, gpu_frac) if memory_gib is None else int(memory_gib * GIB)
            ),
            gpu_frac=gpu_frac,
        )

    def load(self, base: str | BaseSource, savings: Savings) -> Base:
        """Load a checkpoint there."""
        device = torch.device(self.device)
        if device.type == "cuda" and self.gpu_frac < 1:
            torch.cuda.set_per_process_memory_fraction(self.gpu_frac, device.index)
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
