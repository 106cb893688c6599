"""A frozen convolution in, the same convolution plus a low-rank one out."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoraConv(nn.Module):
    """A frozen convolution plus up·down, LoRA's form of it; it is read from files, never trained.

    Args:
        base: (out, in, kh, kw) layer; it stays as it is.
        down: (rank, in·kh·kw), which convolves as base does.
        up: (out, rank), a 1×1 convolution after it.
    """

    factor_names: ClassVar[tuple[str, str]] = ("down", "up")
    scale: ClassVar[float] = 1.0

    def __init__(self, base: nn.Conv2d, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.base = base
        device = base.weight.device
        down = down.reshape(len(down), *base.weight.shape[1:]).to(device, torch.float32)
        up = up[:, :, None, None].to(device, torch.float32)
        self.down = nn.Parameter(down.contiguous(), requires_grad=False)
        self.up = nn.Parameter(up.contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        base = self.base
        hidden = F.conv2d(
            x, self.down.to(x.dtype), None, base.stride, base.padding, base.dilation, base.groups
        )
        return torch.add(base(x), F.conv2d(hidden, self.up.to(hidden.dtype)))

    @torch.no_grad()
    def delta(self) -> Tensor:
        """(out, in, kh, kw) float32 update of the weight."""
        return low_rank_product(self.up, self.down)


def low_rank_product(up: Tensor, down: Tensor) -> Tensor:
    """up·down in the shape of the weight that it is added to, a linear's or a convolution's.

    Args:
        up: (out, rank) or (out, rank, 1, 1).
        down: (rank, in) or (rank, in, kh, kw).
    """
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])
