"""The start of an adapter: a shape and a law in, the random factor out; the other is zero."""

from math import sqrt
from typing import Literal

import torch
from torch import Tensor

Init = Literal["kaiming", "normal"]


def random_factor(
    shape: tuple[int, int], init: Init, generator: torch.Generator, *, fan_in: int
) -> Tensor:
    """Draw a factor on the CPU, by one of the laws that AdapterConfig describes."""
    if init == "normal":
        return torch.empty(shape).normal_(std=1 / shape[0], generator=generator)
    bound = 1 / sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
