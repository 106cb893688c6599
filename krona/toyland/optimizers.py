"""Optimizers of base and scorer: modules enter, Muon for matrices and AdamW for the rest leave.

Muon moves a matrix by its orthogonalised momentum.  Source: Jordan et al. 2024; the step's size is
Moonlight's, AdamW's RMS.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def as_matrix(weight: Tensor) -> Tensor:
    """View a weight as (out, in); a convolution's kernel positions count as inputs."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def build_optimizers(
    modules: Iterable[nn.Module], *, lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Return optimizers that together hold every parameter once.

    Args:
        modules: convolutions must be in channels_last memory format, so that Muon sees views.
        lr: peak learning rate of both.
    """
    matrices, others = _split(modules)
    views = [nn.Parameter(as_matrix(weight.detach())) for weight in matrices]
    muon = torch.optim.Muon(views, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    def lend_gradients(*_: object) -> None:
        for view, weight in zip(views, matrices, strict=True):
            view.grad = None if weight.grad is None else as_matrix(weight.grad)

    muon.register_step_pre_hook(lend_gradients)
    adamw = torch.optim.AdamW(
        others, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    return [muon, adamw]


def _split(modules: Iterable[nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """Part hidden layers' weights from embeddings, norms, biases, and the first and last layer."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for module in modules:
        for name, weight in module.named_parameters():
            is_edge = any(part in name for part in ("embedding", "conv_in", "conv_out"))
            (others if is_edge or weight.ndim < 2 else matrices).append(weight)
    return matrices, others
