"""LoRA's math on rows, with kron's interface: x (T, in), y (T, out), or stacks of them."""

from collections.abc import Sequence

from torch import Tensor

from krona.adapter.gemm import add_product, product


def add_update(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Add scale·up·down·x to y and return down·x (T, rank).

    Args:
        down: (rank, in).
        up: (out, rank).
    """
    inner = product(x, down.to(y.dtype).mT)
    add_product(y, inner, up.to(y.dtype).mT, scale)
    return inner


def gradients(
    grad_x: Tensor | None,
    G: Tensor,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    inner: Tensor | None,
    scale: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Add the update's part to grad_x (T, in), if it is there; return down's and up's if needed.

    G is the gradient (T, out) of y; inner is what add_update returned, or None.
    """
    if inner is None:
        inner = product(x, down.to(G.dtype).mT)
    inner_grad = product(G, up.to(G.dtype))
    if grad_x is not None:
        add_product(grad_x, inner_grad, down.to(G.dtype), scale)
    grad_down = product(inner_grad.mT, x).to(down.dtype) * scale if needs[0] else None
    grad_up = product(G.mT, inner).to(up.dtype) * scale if needs[1] else None
    return grad_down, grad_up


def form_gradients(G: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of down and up from that of up·down, G (out, in)."""
    return up.mT.mm(G), G.mm(down.mT)
