"""Activations and factors in, the update by the fused kernels out, and whether they beat torch.

They serve where they are measured faster, once for each shape and precision in a process; training
and sampling then go the same way. Away from CUDA, without Triton, or when equal runs must be
bit-equal (torch.use_deterministic_algorithms), torch's own operators serve.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _get_current_dispatch_mode

_NUM_TIMED = 10
_is_faster: dict[tuple[Any, ...], bool] = {}


def are_kernels_faster(update: Callable[..., Tensor], x: Tensor, A: Tensor, B: Tensor) -> bool:
    """Whether the kernels win on x (..., a2·b2), A (a1, a2), B (b1, b2), with autocast as it is.

    Args:
        update: (x, A, B, is_fused) → (T, a1·b1), differentiable, by torch or the kernels.
    """
    if not _can_run(x, A, B):
        return False
    num_rows = 1 << (x.numel() // x.shape[-1] - 1).bit_length()
    is_cast = torch.is_autocast_enabled("cuda")
    cast = torch.get_autocast_dtype("cuda") if is_cast else None
    key = num_rows, A.shape, B.shape, x.dtype, cast, x.device
    if key not in _is_faster:
        if torch.cuda.is_current_stream_capturing():  # a graph cannot hold a measurement
            return False
        _is_faster[key] = _measure(update, x.new_empty(num_rows, x.shape[-1]), A, B)
    return _is_faster[key]


def add_update_fused(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: float) -> None:
    """Add scale·A·X_t·Bᵀ to y (T, a1·b1), with x (T, a2·b2); nothing else is written."""
    from krona.adapter.kron_kernel import add_update

    add_update(_as_left(y, A, B), _as_right(x, A, B), A, B, scale)


def gradients_fused(
    grad_x: Tensor | None,
    G: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    inner: None,
    scale: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """What krona.adapter.kron's gradients are, without the inner product."""
    from krona.adapter.kron_kernel import add_update, factor_gradients

    G, X = _as_left(G, A, B), _as_right(x, A, B)
    if grad_x is not None:
        add_update(_as_right(grad_x, A, B), G, A.T, B.T, scale)
    if not any(needs):
        return None, None
    grad_a, grad_b = factor_gradients(G, X, A, B)
    return grad_a.to(A.dtype).mul_(scale), grad_b.to(B.dtype).mul_(scale)


def _as_left(y: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Rows (T, a1·b1) as (T, a1, b1)."""
    return y.view(-1, len(A), len(B))


def _as_right(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Rows (T, a2·b2) as (T, a2, b2)."""
    return x.view(-1, A.shape[1], B.shape[1])


def _can_run(x: Tensor, A: Tensor, B: Tensor) -> bool:
    if not x.is_cuda or not x.numel() or torch.are_deterministic_algorithms_enabled():
        return False
    # A mode that counts operators, or runs them without values, does not see the kernels.
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return False
    if find_spec("triton") is None or x.dtype == torch.float64:
        return False
    from krona.adapter.kron_kernel import can_fuse

    return can_fuse(A, B)


def _measure(update: Callable[..., Tensor], x: Tensor, A: Tensor, B: Tensor) -> bool:
    """Time forward and backward both ways, on values that do not matter."""
    try:
        with torch.inference_mode(False):  # sampling may be the first to ask
            inputs = [torch.zeros_like(t, requires_grad=True) for t in (x, A, B)]
            torch_ms, fused_ms = (_time_ms(update, inputs, fused) for fused in (False, True))
    except Exception as error:
        # Triton builds at run time: it may lack a C compiler or need more shared memory than is.
        warnings.warn(f"the fused kernels do not run here, torch's do: {error}", stacklevel=2)
        return False
    return fused_ms < torch_ms


def _time_ms(update: Callable[..., Tensor], inputs: list[Tensor], is_fused: bool) -> float:
    """Milliseconds of one forward and backward, after a first that compiles."""
    start, end = (_event() for _ in range(2))
    for i in range(1 + _NUM_TIMED):
        if i == 1:
            start.record()
        # Checkpointing counts what is saved, and here it is saved only the first time.
        with torch.enable_grad(), saved_tensors_hooks(lambda t: t, lambda t: t):
            y = update(*inputs, is_fused)
        torch.autograd.grad(y, inputs, torch.zeros_like(y))
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / _NUM_TIMED


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
