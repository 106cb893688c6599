"""Kronecker math on tensors: the factors that fit a layer, and a linear layer plus A ⊗ B, unformed.

Legend: W (out, in) is the frozen weight; A (a1, a2) and B (b1, b2) with a1·b1 = out, a2·b2 = in;
T is the number of rows of x. Row-major, x(A ⊗ B)ᵀ is Y = A·X·Bᵀ with X (T, a2, b2), Y (T, a1, b1).
A stack is g adapters of equal shapes side by side, with g in front of each shape.
"""

from collections.abc import Iterable, Sequence
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from krona.errors import KronaError
from krona.fused import add_update_fused, are_kernels_faster, gradients_fused


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
    """Compute x(W + scale·A ⊗ B)ᵀ + bias without forming the product.

    Args:
        x: (..., a2·b2) activations.
        weight: (a1·b1, a2·b2) and bias: (a1·b1,), frozen: they get no gradient.
        A: (a1, a2) left factor.  B: (b1, b2) right factor; both are cast to x's dtype, so they may
            stay in float32 over half-precision weights, and get float32 gradients.
    Returns: (..., a1·b1) in x's dtype, or in autocast's where that is enabled, as F.linear.
    Cost: the frozen product plus min(a2·b1·(b2 + a1), a1·b2·(a2 + b1)) multiplies per row.
    Source: DiffuseKronA (WACV 2025), eq. 4, row-major vec.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    is_fused = are_kernels_faster(_update_alone, x, A, B, dtype)
    result: Tensor = _KronLinear.apply(x, weight, bias, A, B, scale, dtype, is_fused)
    return result


def _update_alone(x: Tensor, A: Tensor, B: Tensor, dtype: torch.dtype, is_fused: bool) -> Tensor:
    """x(A ⊗ B)ᵀ through the same node, with zeros for W: what is timed."""
    weight = x.new_zeros(len(A) * len(B), x.shape[-1])
    result: Tensor = _KronLinear.apply(x, weight, None, A, B, 1.0, dtype, is_fused)
    return result


class _KronLinear(torch.autograd.Function):
    """The frozen product and the Kronecker update in one node, multiplied in the cheaper order.

    Forward: inner = X·Bᵀ, Y += A·inner when B comes first, else inner = A·X, Y += inner·Bᵀ. The
    gradient of x is the same update with Aᵀ and Bᵀ, the other factor first.
    Saved for the backward: x, shared with every other layer that reads it, and inner, which on a
    square layer is min(a1, a2)/max(a1, a2) of x; above half of x it is made again instead.
    The fused kernels save x alone. Casts are redone, not saved.
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
        dtype: torch.dtype,
        is_fused: bool,
    ) -> Tensor:
        X = x.to(dtype).reshape(-1, A.shape[1], B.shape[1])
        y = F.linear(X.flatten(1), weight.to(dtype), None if bias is None else bias.to(dtype))
        inner = None
        if is_fused:
            add_update_fused(y, X, A, B, scale)
        else:
            inner = add_update(y[None], X[None], A[None], B[None], scale)
        is_kept = inner is not None and 2 * inner.numel() <= x.numel()
        ctx.save_for_backward(x, weight, A, B, inner if is_kept else None)
        ctx.scale, ctx.is_fused = scale, is_fused
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, A, B, inner = ctx.saved_tensors
        needs_x, *needs = (ctx.needs_input_grad[i] for i in (0, 3, 4))
        G = grad.reshape(-1, len(A), len(B))
        X = x.to(grad.dtype).reshape(-1, A.shape[1], B.shape[1])
        grad_x = G.flatten(1) @ weight.to(grad.dtype) if needs_x else None
        if ctx.is_fused:
            grad_a, grad_b = gradients_fused(grad_x, G, X, A, B, inner, ctx.scale, needs)
        else:
            stack_x = None if grad_x is None else grad_x[None]
            stacked = gradients(
                stack_x, G[None], X[None], A[None], B[None], inner, ctx.scale, needs
            )
            grad_a, grad_b = (None if t is None else t[0] for t in stacked)
        grad_x = None if grad_x is None else grad_x.view_as(x)
        return grad_x, None, None, grad_a, grad_b, None, None, None


def add_update(y: Tensor, X: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """Add scale·A·X_t·Bᵀ to y and return the first of the two products.

    A stack of g: y (g, T, a1·b1), X (g, T, a2, b2), A (g, a1, a2), B (g, b1, b2).
    """
    left, right, is_b_first = A.to(y.dtype), B.to(y.dtype), _is_b_first(A, B)
    inner = _inner(X, left, right, is_right_first=is_b_first)
    _add_outer(y, inner, left, right, scale, is_right_first=is_b_first)
    return inner


def gradients(
    grad_x: Tensor | None,
    G: Tensor,
    X: Tensor,
    A: Tensor,
    B: Tensor,
    inner: Tensor | None,
    scale: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Add the update's part to grad_x (g, T, a2·b2), if there is one; return A's and B's if needed.

    G is the gradient (g, T, a1, b1) of y, X (g, T, a2, b2); inner is what add_update returned.
    """
    left, right, is_b_first = A.to(G.dtype), B.to(G.dtype), _is_b_first(A, B)
    if inner is None:
        inner = _inner(X, left, right, is_right_first=is_b_first)
    inner_grad = _inner(G, left.mT, right.mT, is_right_first=not is_b_first)
    if grad_x is not None:
        _add_outer(grad_x, inner_grad, left.mT, right.mT, scale, is_right_first=not is_b_first)
    G_a, X_a = (G, inner) if is_b_first else (inner_grad, X)
    G_b, X_b = (inner_grad, X) if is_b_first else (G, inner)
    grad_a = _sum_of_products(G_a, X_a).to(A.dtype).mul_(scale) if needs[0] else None
    grad_b = None
    if needs[1]:
        grad_b = _product_of_rows(G_b.flatten(1, 2).mT, X_b.flatten(1, 2)).to(B.dtype).mul_(scale)
    return grad_a, grad_b


def _inner(X: Tensor, L: Tensor, R: Tensor, *, is_right_first: bool) -> Tensor:
    """The first of the two products of L·X_t·Rᵀ: X_t·Rᵀ (g, T, q, m), or L·X_t (g, T, p, n).

    X (g, T, q, n), L (g, p, q), R (g, m, n).
    """
    if is_right_first:
        return _product_of_rows(X.flatten(1, 2), R.mT).view(*X.shape[:3], R.shape[1])
    return _product(L, X)


def _add_outer(
    out: Tensor, inner: Tensor, L: Tensor, R: Tensor, scale: float, *, is_right_first: bool
) -> None:
    """Add scale·L·X_t·Rᵀ to out (g, T, p·m), given the first product."""
    if is_right_first:
        _add_product(out.view(*out.shape[:2], L.shape[1], R.shape[1]), L, inner, alpha=scale)
    else:
        rows = out.view(len(out), -1, R.shape[1])
        _add_product_of_rows(rows, inner.flatten(1, 2), R.mT, alpha=scale)


def _is_b_first(A: Tensor, B: Tensor) -> bool:
    (a1, a2), (b1, b2) = A.shape[-2:], B.shape[-2:]
    return a2 * b1 * (b2 + a1) <= a1 * b2 * (a2 + b1)


def _is_narrow(X: Tensor) -> bool:
    """Whether one GEMM with L ⊗ I beats T small products L·X_t, although it multiplies zeros."""
    return X.shape[-1] <= (8 if X.dtype in (torch.float32, torch.float64) else 32)


def _widen(L: Tensor, width: int) -> Tensor:
    """L ⊗ I for each L (g, p, q) (torch.kron 2.15 refuses some transposed one-row matrices)."""
    g, p, q = L.shape
    wide = L.new_zeros(g, p, width, q, width)
    wide.diagonal(dim1=2, dim2=4).copy_(L[..., None])
    return wide.view(g, p * width, q * width)


def _product_of_rows(X: Tensor, Y: Tensor) -> Tensor:
    """(g, i, k) = X (g, i, j) · Y (g, j, k)."""
    return (X[0] @ Y[0])[None] if len(X) == 1 else torch.bmm(X, Y)


def _add_product_of_rows(out: Tensor, X: Tensor, Y: Tensor, *, alpha: float) -> None:
    """Add alpha·X (g, i, j) · Y (g, j, k) to out (g, i, k)."""
    if len(X) == 1:
        out[0].addmm_(X[0], Y[0], alpha=alpha)
    else:
        out.baddbmm_(X, Y, alpha=alpha)


def _add_product(out: Tensor, L: Tensor, X: Tensor, *, alpha: float) -> None:
    """Add alpha·L·X_t to out_t for every row t: out (g, T, p, m), L (g, p, q), X (g, T, q, m)."""
    if _is_narrow(X):
        wide = _widen(L.mT, X.shape[-1])
        _add_product_of_rows(out.flatten(2), X.flatten(2), wide, alpha=alpha)
        return
    for out_i, L_i, X_i in zip(out, L, X, strict=True):
        out_i.baddbmm_(L_i.expand(len(X_i), -1, -1), X_i, alpha=alpha)


def _product(L: Tensor, X: Tensor) -> Tensor:
    """(g, T, p, m) = L·X_t."""
    if _is_narrow(X):
        wide = _product_of_rows(X.flatten(2), _widen(L.mT, X.shape[-1]))
        return wide.view(*X.shape[:2], L.shape[1], X.shape[3])
    out = X.new_empty(*X.shape[:2], L.shape[1], X.shape[3])
    for out_i, L_i, X_i in zip(out, L, X, strict=True):
        torch.bmm(L_i.expand(len(X_i), -1, -1), X_i, out=out_i)
    return out


def _sum_of_products(G: Tensor, X: Tensor) -> Tensor:
    """(g, p, q) = Σ_t G_t·X_tᵀ, with G (g, T, p, m) and X (g, T, q, m)."""
    if not _is_narrow(X):
        return torch.matmul(G, X.mT).sum(1)
    if G.shape[2] < X.shape[2]:  # the side that a GEMM has to transpose is best the smaller one
        return _sum_of_products(X, G).mT
    blocks = _product_of_rows(X.flatten(2).mT, G.flatten(2))
    return blocks.view(len(X), *X.shape[2:], *G.shape[2:]).diagonal(dim1=2, dim2=4).sum(-1).mT
