"""LoRA's math on stacks of adapters side by side, as in krona.kron: X (g, T, in), y (g, T, out)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def add_update(y: Tensor, X: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Add scale·up·down·x to y and return down·x (g, T, rank).

    Args:
        down: (g, rank, in).
        up: (g, out, rank).
    """
    inner = torch.bmm(X, down.to(y.dtype).mT)
    y.baddbmm_(inner, up.to(y.dtype).mT, alpha=scale)
    return inner


def gradients(
    grad_x: Tensor | None,
    G: Tensor,
    X: Tensor,
    down: Tensor,
    up: Tensor,
    inner: Tensor | None,
    scale: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Add the update's part to grad_x (g, T, in), if it is there; return down's and up's if needed.

    G is the gradient (g, T, out) of y; inner is what add_update returned.
    """
    if inner is None:
        inner = torch.bmm(X, down.to(G.dtype).mT)
    inner_grad = torch.bmm(G, up.to(G.dtype))
    if grad_x is not None:
        grad_x.baddbmm_(inner_grad, down.to(G.dtype), alpha=scale)
    grad_down = torch.bmm(inner_grad.mT, X).to(down.dtype).mul_(scale) if needs[0] else None
    grad_up = torch.bmm(G.mT, inner).to(up.dtype).mul_(scale) if needs[1] else None
    return grad_down, grad_up
