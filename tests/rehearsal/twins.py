"""One checkpoint on the CPU and on another device; what a rehearsal's tests are given."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from krona.base.checkpoint import Base
from krona.train.run import Run

RESOLUTION = 16
ON_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MakeRun = Callable[..., Run]


@dataclass(frozen=True)
class Twins:
    """One checkpoint on the device, and on the CPU."""

    there: Base
    here: Base


def learned(run: Run) -> torch.Tensor:
    """The run's factors, on the CPU."""
    return run.state.flat.detach().cpu()
