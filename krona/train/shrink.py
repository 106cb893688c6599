"""Work on runs that may not fit into memory in; out, its results, with less in memory at once."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from krona.base.checkpoint import Base
from krona.errors import DoesNotFitError
from krona.train.run import Run

Result = TypeVar("Result")


def or_with_less(base: Base, runs: Sequence[Run], compute: Callable[[], Result]) -> Result:
    """compute(); where memory is short for a single run, again with more and more given up.

    Encoders leave the device, then the batch is computed in ever smaller parts, then blocks are
    recomputed in the backward: what is learned stays the same, up to rounding.
    Raises: torch.OutOfMemoryError if several runs do not fit; DoesNotFitError if one does not, with
        nothing left to give up.
    """
    while True:
        try:
            return compute()
        except torch.OutOfMemoryError as error:
            if len(runs) > 1:
                raise
            said = str(error).partition("\n")[0]
        given_up = _give_up(base, runs[0])
        if given_up is None:
            raise DoesNotFitError(
                f"training does not fit into the memory of {base.device}, one image at a time and "
                f"blocks recomputed: {said}; lower the resolution, or choose a smaller adapter"
            )
        warnings.warn(f"memory is short: {given_up} from here on", stacklevel=2)


def _give_up(base: Base, run: Run) -> str | None:
    """Give up the least that is left, and say what it is."""
    if base.offload(keeps_text=run.config.adapter.adapts_text):
        return "encoders wait in main memory"
    if 2 * run.num_parts <= run.num_rows:
        run.num_parts *= 2
        return f"a batch is computed in {run.num_parts} parts"
    if not base.unet.is_gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        return "blocks are recomputed in the backward"
    return None
