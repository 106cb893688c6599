"""What gpu.py was told in; the bases, subjects and sizes that its parts take out."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from krona.base.arithmetic import Precision
    from krona.base.checkpoint import Base

GIB = 1 << 30
T = TypeVar("T")


class LackingError(Exception):
    """A package that a part needs is not installed."""


def require(*packages: str) -> None:
    """Raise LackingError unless all are installed."""
    lacking = [package for package in packages if find_spec(package) is None]
    if lacking:
        raise LackingError(f"no {', '.join(lacking)}")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where and at which size to measure.

    Attributes:
        device: "cuda", or "cpu" to rehearse.
        is_toy: tiny models and few rounds, for a CPU.
        checkpoints: folder of the random checkpoints; those that are there serve again.
    """

    device: str
    is_toy: bool
    checkpoints: Path

    def pick(self, full: T, toy: T) -> T:
        """One of two sizes."""
        return toy if self.is_toy else full

    @property
    def precision(self) -> "Precision":
        """Of the bases; most CPUs are slow in bf16."""
        return self.pick("bf16", "fp32")

    def load(self, name: str) -> "Base":
        """The base sd15 or sdxl with random weights."""
        # Here, for the parts without a base to start in a second.
        from random_checkpoint import TOY, random_checkpoint

        from krona.base.arithmetic import DTYPES
        from krona.base.checkpoint import load_base

        dtype = DTYPES[self.precision]
        folder = random_checkpoint(
            name,
            self.checkpoints / (f"{name}-toy" if self.is_toy else name),
            device=self.device,
            dtype=dtype,
            overrides=TOY[name] if self.is_toy else None,
        )
        return load_base(folder, device=self.device, dtype=dtype)


def attempt(run: Callable[[], T]) -> T | str:
    """What run() gives, or what went wrong: a measure that fails does not end a part."""
    try:
        return run()
    except Exception as error:  # anything: this is measured to know
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return told(error)


def told(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
