"""Products of two matrices, or of two stacks of as many."""

from torch import Tensor


def product(X: Tensor, Y: Tensor) -> Tensor:
    """(..., i, k) = X (..., i, j) · Y (..., j, k), with no or one dimension in front."""
    return X.mm(Y) if X.dim() == 2 else X.bmm(Y)


def add_product(out: Tensor, X: Tensor, Y: Tensor, scale: float) -> None:
    """Add scale·X (..., i, j) · Y (..., j, k) to out (..., i, k)."""
    if out.dim() == 2:
        out.addmm_(X, Y, alpha=scale)
    else:
        out.baddbmm_(X, Y, alpha=scale)
