"""An adapter in; out, the LoRA nearest to it: exact, or of a given rank.

SVD(A) ⊗ SVD(B) is the SVD of A ⊗ B, so the dense product is never formed.
"""

import torch
from torch import Tensor

from krona.adapter.inject import Adapter
from krona.adapter.layers import AdapterLayer, KronLinear, Lora, LoraLinear, PublishedKronLinear
from krona.adapter.lora_conv import LoraConv
from krona.errors import KronaError


def as_lora(adapter: Adapter, rank: int | None = None) -> Adapter:
    """The LoRA adapter with the nearest update in the Frobenius norm, layer by layer.

    Args:
        adapter: it stays as it is.
        rank: of every layer that has more; None keeps all of it, min(a1, a2)·min(b1, b2).
    Returns: an adapter around the same modules that is not injected.
    """
    if rank is not None and rank < 1:
        raise KronaError(f"rank={rank} is not a positive integer")
    layers: dict[str, AdapterLayer] = {
        path: _lora_of(layer, rank) for path, layer in adapter.layers.items()
    }
    return Adapter(adapter.unet, layers, is_injected=False)


@torch.no_grad()
def _lora_of(layer: AdapterLayer, rank: int | None) -> Lora:
    U, sizes, V = singular_vectors(layer)
    root = sizes[:rank].sqrt()
    down, up = root[:, None] * V[:, :rank].T, U[:, :rank] * root
    if isinstance(layer, LoraConv):
        return LoraConv(layer.base, down, up)
    return LoraLinear.of(layer.base, down, up)


def singular_vectors(layer: AdapterLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a layer's update into U·diag(sizes)·Vᵀ, without forming it.

    Returns: U (out, r), sizes (r,) falling, V (in, r), in float64; a convolution's in is
        in·kh·kw.
    """
    if isinstance(layer, Lora):
        up, down = layer.up.flatten(1).double(), layer.down.flatten(1).double()
        return _of_product(layer.scale * up, down)
    scale = layer.scale if isinstance(layer, KronLinear) else 1.0
    Ua, sa, Va = _svd(scale * layer.A.double())
    Ub, sb, Vb = _svd(layer.B.double())
    sizes, order = torch.outer(sa, sb).flatten().sort(descending=True)
    i, j = order // len(sb), order % len(sb)
    U = Ua[:, None, i] * Ub[None, :, j]
    V = Va[:, None, i] * Vb[None, :, j]
    if isinstance(layer, PublishedKronLinear):
        U = U.transpose(0, 1)
    return U.flatten(0, 1), sizes, V.flatten(0, 1)


def _of_product(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The decomposition of up·down, through the QR of each."""
    Q_up, R_up = torch.linalg.qr(up)
    Q_down, R_down = torch.linalg.qr(down.T)
    U, sizes, V = _svd(R_up @ R_down.T)
    return Q_up @ U, sizes, Q_down @ V


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    U, sizes, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U, sizes, Vh.T
