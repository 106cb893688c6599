"""Kronecker math on tensors: the factors that fit a layer, and a linear layer plus A ⊗ B, unformed.

Legend: W (out, in) is the frozen weight; A (a1, a2) and B (b1, b2) with a1·b1 = out, a2·b2 = in;
T is the number of rows of x. Row-major, x(A ⊗ B)ᵀ is Y = A·X·Bᵀ, with the rows of x (T, a2·b2) as
matrices X (T, a2, b2) and those of y (T, a1·b1) as Y (T, a1, b1). A stack is g adapters of equal
shapes side by side, with g in front of each shape.
"""

from collections.abc import Iterable, Sequence
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from krona.adapter.fused import add_update_fused, are_kernels_faster, gradients_fused
from krona.adapter.gemm import add_product
from krona.errors import KronaError


def divisors(n: int) -> list[int]:
    """The divisors of n ≥ 1, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def valid_factors(shapes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every (a1, a2) that fits all layers: a1 divides each out_features, a2 each in_features.

    Args:
        shapes: (out_features, in_features) of the layers.
    Returns: the pairs, ascending by (a1·a2, a1).
    """
    shapes = list(shapes)
    lefts = divisors(gcd(*(out for out, _ in shapes)))
    rights = divisors(gcd(*(in_ for _, in_ in shapes)))
    return sorted(((a1, a2) for a1 in lefts for a2 in rights), key=lambda p: (p[0] * p[1], p[0]))


def num_kron_params(shape: tuple[int, int], a1: int, a2: int) -> int:
    """Count the parameters of A and B on a layer of shape (out_features, in_features)."""
    (b1, rest1), (b2, rest2) = divmod(shape[0], a1), divmod(shape[1], a2)
    if rest1 or rest2:
        raise KronaError(f"factors ({a1}, {a2}) do not divide a layer of shape {shape}")
    return a1 * a2 + b1 * b2


def kron_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float = 1.0
) -> Tensor:
    """Compute x(W + scale·A ⊗ B)ᵀ + bias; A ⊗ B is formed only where that saves time.

    Args:
        x: (..., a2·b2) activations.
        weight: (a1·b1, a2·b2) and bias: (a1·b1,), frozen: they get no gradient.
        A: (a1, a2) left factor.  B: (b1, b2) right factor; both are cast to x's dtype, so they may
            stay in float32 over half-precision weights, and get float32 gradients.
    Returns: (..., a1·b1) in x's dtype, or in autocast's where that is enabled, as F.linear.
    Cost: the frozen product plus at most min(a2·b1·(b2 + a1), a1·b2·(a2 + b1)) multiplies per row.
    Source: DiffuseKronA (WACV 2025), eq. 4, row-major vec.
    """
    is_fused = are_kernels_faster(_update_alone, x, A, B)
    result: Tensor = _KronLinear.apply(x, weight, bias, A, B, scale, is_fused)
    return result


def _update_alone(x: Tensor, A: Tensor, B: Tensor, is_fused: bool) -> Tensor:
    """x(A ⊗ B)ᵀ through the same node, with zeros for W: what is timed."""
    weight = x.new_zeros(len(A) * len(B), x.shape[-1])
    result: Tensor = _KronLinear.apply(x, weight, None, A, B, 1.0, is_fused)
    return result


class _KronLinear(torch.autograd.Function):
    """The frozen product and the Kronecker update in one node, multiplied in the cheaper order.

    Forward: inner = X·Bᵀ, Y += A·inner when B comes first, else inner = A·X, Y += inner·Bᵀ. The
    gradient of x is the same update with Aᵀ and Bᵀ, the other factor first. Of the two, the one
    that ends with A, the slower, is one product with W + scale·A ⊗ B where rows are many.
    Saved for the backward: x, shared with every other layer that reads it, and inner, which on a
    square layer is min(a1, a2)/max(a1, a2) of x; above half of x it is made again instead.
    The fused kernels save x alone. Casts and W + scale·A ⊗ B are redone, not saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        A: Tensor,
        B: Tensor,
        scale: float,
        is_fused: bool,
    ) -> Tensor:
        inner = None
        is_b_first = _is_b_first(A, B)
        is_formed = not is_fused and _is_best_formed(x, B.shape[1] if is_b_first else len(B))
        if is_formed and is_b_first:
            y = F.linear(x, _form(weight, A, B, scale), bias)
        else:
            y = F.linear(x, weight, bias)
            out, rows = y.view(-1, len(weight)), x.to(y.dtype).reshape(-1, x.shape[-1])
            inner = (add_update_fused if is_fused else add_update)(out, rows, A, B, scale)
        is_kept = inner is not None and 2 * inner.numel() <= x.numel()
        ctx.save_for_backward(x, weight, A, B, inner if is_kept else None)
        ctx.scale, ctx.is_fused, ctx.is_formed = scale, is_fused, is_formed and not is_b_first
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, A, B, inner = ctx.saved_tensors
        needs_x, *_, needs_a, needs_b, _, _ = ctx.needs_input_grad
        G = grad.reshape(-1, grad.shape[-1])
        rows = x.to(grad.dtype).reshape(-1, x.shape[-1])
        grad_x = unfinished = None
        if needs_x and ctx.is_formed:
            grad_x = G @ _form(weight, A, B, ctx.scale)
        elif needs_x:
            grad_x = unfinished = G @ weight.to(grad.dtype)
        function = gradients_fused if ctx.is_fused else gradients
        grad_a, grad_b = function(unfinished, G, rows, A, B, inner, ctx.scale, (needs_a, needs_b))
        grad_x = None if grad_x is None else grad_x.view_as(x)
        return grad_x, None, None, grad_a, grad_b, None, None


def is_exact(x: Tensor) -> bool:
    """Whether a product of x with W + ΔW has all of a small update: nothing is rounded to less."""
    return (
        x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled(x.device.type)
        and torch.get_float32_matmul_precision() == "highest"
    )


def _is_best_formed(x: Tensor, width: int) -> bool:
    """Whether W + ΔW is formed sooner than x, or the gradient, multiplied by A.

    That takes out·in/width multiplies per row, at a fraction of the speed of large products.
    """
    return x.numel() >= 4 * width * x.shape[-1] and is_exact(x)


def _form(weight: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """W + scale·A ⊗ B (a1·b1, a2·b2)."""
    delta = torch.kron(A, B).to(weight.dtype)
    return torch.add(weight, delta, alpha=scale, out=delta)


def add_update(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """Add scale·A·X_t·Bᵀ to y (T, a1·b1), or to a stack; x (T, a2·b2).

    Returns: the first of the two products, (T, a2·b1) when B comes first, else (T, a1·b2).
    """
    left, right = A.to(y.dtype), B.to(y.dtype)
    if _is_b_first(A, B):
        inner = _times_right(x, right)
        _add_left_times(y, left, inner, scale)
    else:
        inner = _left_times(left, x)
        _add_times_right(y, inner, right, scale)
    return inner


def gradients(
    grad_x: Tensor | None,
    G: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    inner: Tensor | None,
    scale: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Add the update's part to grad_x (T, a2·b2), if there is one; return A's and B's if needed.

    G is the gradient (T, a1·b1) of y, inner what add_update returned or None; all may be stacks.
    """
    left, right = A.to(G.dtype), B.to(G.dtype)
    if _is_b_first(A, B):
        inner = _times_right(x, right) if inner is None else inner
        inner_grad = _left_times(left.mT, G)
        if grad_x is not None:
            _add_times_right(grad_x, inner_grad, right.mT, scale)
        of_a, of_b = (G, inner), (inner_grad, x)
    else:
        inner = _left_times(left, x) if inner is None else inner
        inner_grad = _times_right(G, right.mT)
        if grad_x is not None:
            _add_left_times(grad_x, left.mT, inner_grad, scale)
        of_a, of_b = (inner_grad, x), (G, inner)
    grad_a = _gradient_of_left(*of_a, A) if needs[0] else None
    grad_b = _gradient_of_right(*of_b, B) if needs[1] else None
    if scale != 1:
        grad_a, grad_b = (None if of is None else of.mul_(scale) for of in (grad_a, grad_b))
    return grad_a, grad_b


def form_gradients(G: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of A and B from that of A ⊗ B, G (a1·b1, a2·b2)."""
    blocks = G.view(len(A), len(B), A.shape[1], B.shape[1]).transpose(1, 2)
    pairs = blocks.reshape(A.numel(), B.numel())
    return pairs.mv(B.flatten()).view_as(A), pairs.T.mv(A.flatten()).view_as(B)


def _is_b_first(A: Tensor, B: Tensor) -> bool:
    (a1, a2), (b1, b2) = A.shape[-2:], B.shape[-2:]
    return a2 * b1 * (b2 + a1) <= a1 * b2 * (a2 + b1)


def _times_right(x: Tensor, R: Tensor) -> Tensor:
    """X_t·Rᵀ as rows (T, q·m): x (T, q·n), R (m, n), or stacks."""
    *stack, m, n = R.shape
    return (x.reshape(*stack, -1, n) @ R.mT).view(*stack, -1, x.shape[-1] // n * m)


def _add_times_right(out: Tensor, x: Tensor, R: Tensor, scale: float) -> None:
    """Add scale·X_t·Rᵀ to out (T, p·m): x (T, p·n), R (m, n), or stacks."""
    *stack, m, n = R.shape
    add_product(out.view(*stack, -1, m), x.reshape(*stack, -1, n), R.mT, scale)


def _left_times(L: Tensor, x: Tensor) -> Tensor:
    """L·X_t as rows (T, p·n): L (p, q), x (T, q·n), or stacks."""
    width = x.shape[-1] // L.shape[-1]
    if _is_narrow(width, x.dtype):
        return x @ _widen(L.mT, width)
    if x.dim() == 3:
        return torch.stack([_left_times(L_i, x_i) for L_i, x_i in zip(L, x, strict=True)])
    matrices = x.view(len(x), L.shape[1], width)
    return torch.bmm(L.expand(len(x), -1, -1), matrices).flatten(1)


def _add_left_times(out: Tensor, L: Tensor, x: Tensor, scale: float) -> None:
    """Add scale·L·X_t to out (T, p·n): L (p, q), x (T, q·n), or stacks."""
    width = x.shape[-1] // L.shape[-1]
    if _is_narrow(width, x.dtype):
        add_product(out, x, _widen(L.mT, width), scale)
    elif x.dim() == 3:
        for out_i, L_i, x_i in zip(out, L, x, strict=True):
            _add_left_times(out_i, L_i, x_i, scale)
    else:
        matrices = x.view(len(x), L.shape[1], width)
        out = out.view(len(x), L.shape[0], width)
        out.baddbmm_(L.expand(len(x), -1, -1), matrices, alpha=scale)


def _gradient_of_left(G: Tensor, x: Tensor, A: Tensor) -> Tensor:
    """Σ_t G_t·X_tᵀ in A's dtype: G (T, p·n), x (T, q·n), A (p, q), or stacks."""
    *stack, p, q = A.shape
    width = x.shape[-1] // q
    is_narrow = _is_narrow(width, x.dtype)
    # A large product has to transpose a side, best the smaller; of small ones that is the larger.
    if p != q and (p < q) == is_narrow:
        return _gradient_of_left(x, G, A.mT).mT
    if is_narrow:
        blocks = (x.mT @ G).view(*stack, q, width, p, width)
        return blocks.diagonal(dim1=-3, dim2=-1).sum(-1).mT.to(A.dtype)
    pairs = G.view(*stack, -1, p, width) @ x.view(*stack, -1, q, width).mT
    return pairs.sum(-3).to(A.dtype)


def _gradient_of_right(G: Tensor, x: Tensor, B: Tensor) -> Tensor:
    """Σ_t G_tᵀ·X_t in B's dtype: G (T, q·m), x (T, q·n), B (m, n), or stacks."""
    *stack, m, n = B.shape
    return (G.reshape(*stack, -1, m).mT @ x.reshape(*stack, -1, n)).to(B.dtype)


def _is_narrow(width: int, dtype: torch.dtype) -> bool:
    """Whether one GEMM with L ⊗ I beats T small products L·X_t, although it multiplies zeros."""
    return width <= (8 if dtype in (torch.float32, torch.float64) else 32)


def _widen(L: Tensor, width: int) -> Tensor:
    """L ⊗ I for each L (p, q) (torch.kron 2.15 refuses some transposed one-row matrices)."""
    *stack, p, q = L.shape
    wide = L.new_zeros(*stack, p, width, q, width)
    wide.diagonal(dim1=-3, dim2=-1).copy_(L.unsqueeze(-1))
    return wide.view(*stack, p * width, q * width)
