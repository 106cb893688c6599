"""What was written and the adapter it was made from in; how far the one is from the other out."""

from contextlib import closing
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from krona import __version__
from krona.adapter.inject import Adapter
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.formats.names import ExportFormat

# Allowed error: of the update itself, and what float32 rounds off the weights it is added to.
_UPDATE_TOLERANCE = 1e-5
_WEIGHT_TOLERANCE = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How far an export is from the adapter when loaded back; it stands in the export itself.

    Attributes:
        rank: that a LoRA was cut to; None where nothing was.
        max_abs_error: largest difference in any entry of any layer's update.
        rel_error: Frobenius norm of the difference over that of the update, over all layers.
        loaded_by: the tool and version that read it back; "krona" where none is installed that
            can hold the shapes.
    """

    format: ExportFormat
    rank: int | None
    max_abs_error: float
    rel_error: float
    loaded_by: str
    krona: str = __version__


def measure(
    path: Path,
    *,
    module: Any,
    format: ExportFormat,
    written: Adapter,
    adapter: Adapter,
    base: Base,
    rank: int | None,
) -> Measured:
    """Load an export back with its own tool and compare every layer's update.

    Args:
        module: of the format.
        written: what was meant to be written; it differs from `adapter` only for a LoRA.
    Raises: KronaError if it loads as something else.
    """
    error, fault = _Difference(), _Difference()
    weight_sq = 0.0
    skipped = set(written.layers)
    with closing(module.deltas(path, written, base)) as deltas:
        for layer_path, got in deltas:
            skipped.discard(layer_path)
            layer = written.layers[layer_path]
            error.add(got, adapter.layers[layer_path].delta())
            fault.add(got, layer.delta())
            weight_sq += layer.base.weight.square().sum().item()
    if skipped:
        raise KronaError(
            f"the {format} export loads back wrong: {module.loader(written)} skips {len(skipped)} "
            f"of its {len(written.layers)} layers, among them {min(skipped)}. Nothing was written"
        )
    wrong = fault.size if rank is not None else max(error.size, fault.size)
    if not wrong <= _UPDATE_TOLERANCE * error.of + _WEIGHT_TOLERANCE * weight_sq**0.5:
        raise KronaError(
            f"the {format} export loads back wrong: its updates differ by {wrong:.2g} from the "
            f"adapter's, whose size is {error.of:.2g}. Nothing was written"
        )
    return Measured(
        format=format,
        rank=rank,
        max_abs_error=error.max_abs,
        rel_error=error.size / error.of if error.of else error.size,
        loaded_by=module.loader(written),
    )


class _Difference:
    """The largest entry and the Frobenius norm of a difference that comes layer by layer."""

    def __init__(self) -> None:
        self.max_abs = self._sq = self._of_sq = 0.0

    def add(self, got: Tensor, expected: Tensor) -> None:
        difference = got.to(expected) - expected
        self.max_abs = max(self.max_abs, difference.abs().max().item())
        self._sq += difference.square().sum().item()
        self._of_sq += expected.square().sum().item()

    @property
    def size(self) -> float:
        return sqrt(self._sq)

    @property
    def of(self) -> float:
        """The norm of what was expected."""
        return sqrt(self._of_sq)
