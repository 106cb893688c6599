"""Work that may not fit into a device's memory in; out, its results, from ever smaller parts.

Every retry begins after the handler has ended: the error that is being handled holds its frames,
and these hold what they had allocated.
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def in_parts(compute: Callable[[slice], Result], num_rows: int, at_once: int) -> list[Result]:
    """compute() of all rows, `at_once` at a time, or half as many where memory is short.

    Raises: torch.OutOfMemoryError if one row does not fit.
    """
    results: list[Result] = []
    start = 0
    while start < num_rows:
        stop = min(start + at_once, num_rows)
        try:
            results.append(compute(slice(start, stop)))
            start = stop
        except torch.OutOfMemoryError:
            if stop - start == 1:
                raise
            at_once = (stop - start) // 2
    return results


def or_in_tiles(vae: Any, compute: Callable[[], Result]) -> Result:
    """compute() with the autoencoder; where memory is short, with its images cut into tiles.

    Tiles overlap and are blended, so that the result differs a little from the whole.
    """
    try:
        return compute()
    except torch.OutOfMemoryError:
        if vae.use_tiling:
            raise
    warnings.warn("memory is short: images are coded in tiles from here on", stacklevel=3)
    vae.enable_tiling()
    return compute()
