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
from krona.exchange.formats.names import Dtype, ExportFormat
from krona.exchange.formats.rounding import DTYPES

# Allowed error: of the update itself, beside what the file's precision rounds off its two factors
# and tools off their product; and what is rounded off the weights that the update is added to.
_UPDATE_TOLERANCE = 1e-5
_NUM_ROUNDINGS = 4


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How far an export is from the adapter when loaded back; it stands in the export itself.

    Attributes:
        rank: that a LoRA was cut to; None where nothing was.
        dtype: of what was written.
        max_abs_error: largest difference in any entry of any layer's update.
        rel_error: Frobenius norm of the difference over that of the update, over all layers.
        rounding_error: largest such ratio of a single layer, from rounding to dtype alone.
        loaded_by: the tool and version that read it back; "krona" where none is installed that
            can hold the shapes.
    """

    format: ExportFormat
    rank: int | None
    dtype: Dtype
    max_abs_error: float
    rel_error: float
    rounding_error: float
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
    dtype: Dtype,
) -> Measured:
    """Load an export back with its own tool and compare every layer's update.

    Args:
        module: of the format.
        written: what was meant to be written; it differs from `adapter` only for a LoRA.
    Raises: KronaError if it loads as something else.
    """
    error, fault = _Difference(), _Difference()
    weight_sq = rounding_error = 0.0
    skipped = set(written.layers)
    with closing(module.deltas(path, written, base)) as deltas:
        for layer_path, got in deltas:
            skipped.discard(layer_path)
            layer = written.layers[layer_path]
            error.add(got, adapter.layers[layer_path].delta())
            rounding_error = max(rounding_error, fault.add(got, layer.delta()))
            weight_sq += layer.base.weight.square().sum().item()
    if skipped:
        raise KronaError(
            f"the {format} export loads back wrong: {module.loader(written)} skips {len(skipped)} "
            f"of its {len(written.layers)} layers, among them {min(skipped)}. Nothing was written"
        )
    wrong = fault.size if rank is not None else max(error.size, fault.size)
    if not wrong <= _allowed(format, dtype, error.of, weight_sq**0.5):
        fix = (
            "" if dtype == "fp32" else f"; where {dtype} is too coarse for it, --dtype fp32 is not"
        )
        raise KronaError(
            f"the {format} export loads back wrong: its updates differ by {wrong:.2g} from the "
            f"adapter's, whose size is {error.of:.2g}. Nothing was written{fix}"
        )
    return Measured(
        format=format,
        rank=rank,
        dtype=dtype,
        max_abs_error=error.max_abs,
        rel_error=_ratio(error.size, error.of),
        rounding_error=rounding_error,
        loaded_by=module.loader(written),
    )


def _allowed(format: ExportFormat, dtype: Dtype, update: float, weight: float) -> float:
    """The difference that rounding explains, by the norms of the update and of the weights."""
    unit = torch.finfo(DTYPES[dtype]).eps / 2
    is_merged = format.startswith("merged")
    of_weight = torch.finfo(DTYPES[dtype] if is_merged else torch.float32).eps
    return (_UPDATE_TOLERANCE + _NUM_ROUNDINGS * unit) * update + of_weight * weight


def _ratio(size: float, of: float) -> float:
    return size / of if of else size


class _Difference:
    """The largest entry and the Frobenius norm of a difference that comes layer by layer."""

    def __init__(self) -> None:
        self.max_abs = self._sq = self._of_sq = 0.0

    def add(self, got: Tensor, expected: Tensor) -> float:
        """Returns: the norm of this layer's difference over that of what was expected."""
        difference = got.to(expected) - expected
        self.max_abs = max(self.max_abs, difference.abs().max().item())
        sq, of_sq = difference.square().sum().item(), expected.square().sum().item()
        self._sq += sq
        self._of_sq += of_sq
        return _ratio(sqrt(sq), sqrt(of_sq))

    @property
    def size(self) -> float:
        return sqrt(self._sq)

    @property
    def of(self) -> float:
        """The norm of what was expected."""
        return sqrt(self._of_sq)
