"""Tensors in; out, the same in the precision of a file, none of them beyond its range."""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from krona.errors import KronaError
from krona.exchange.formats.names import Dtype

DTYPES: dict[Dtype, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}
_Module = TypeVar("_Module", bound=nn.Module)


def rounded(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Round the tensors that are no single number, such as alpha.

    Raises: KronaError where a number is not finite, or is not in dtype.
    """
    return {name: _rounded(name, t, dtype) if t.ndim else t for name, t in tensors.items()}


def rounded_module(name: str, module: _Module, dtype: torch.dtype) -> _Module:
    """A copy of a module with rounded parameters; those that are in dtype are not copied."""
    memo = {
        id(parameter): nn.Parameter(_rounded(f"{name}.{key}", parameter.detach(), dtype), False)
        for key, parameter in module.named_parameters()
    }
    return copy.deepcopy(module, memo)


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    result = tensor.to(dtype)
    if result.isfinite().all():
        return result
    if not tensor.isfinite().all():
        raise KronaError(f"'{name}' holds a number that is not finite; nothing was written")
    raise KronaError(
        f"'{name}' has a number of size {tensor.abs().max().item():.3g}, and {dtype} ends at "
        f"{torch.finfo(dtype).max:.3g}; write it with --dtype bf16, or fp32. Nothing was written"
    )
