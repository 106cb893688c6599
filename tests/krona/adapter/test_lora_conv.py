"""A convolution with a low-rank one: by hand, and as one convolution of the sum of weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from krona.adapter.lora_conv import LoraConv, low_rank_product


def random_layer(base: nn.Conv2d, rank: int) -> LoraConv:
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(rank, base.weight[0].numel(), generator=generator)
    return LoraConv(base, down, torch.randn(len(base.weight), rank, generator=generator))


def test_update_by_hand() -> None:
    base = nn.Conv2d(2, 1, (1, 2), bias=False)
    layer = LoraConv(base, torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[5.0]]))
    assert layer.delta().tolist() == [[[[5, 10]], [[15, 20]]]]
    assert low_rank_product(torch.tensor([[3.0], [4]]), torch.tensor([[1.0, 2]])).tolist() == [
        [3, 6],
        [4, 8],
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 2, "stride": 2, "dilation": 2},
    ],
)
def test_equals_one_convolution_of_the_summed_weight(settings: dict[str, int]) -> None:
    base = nn.Conv2d(6, 4, **settings)
    layer, x = random_layer(base, 2), torch.randn(3, 6, 9, 9)
    rest = {key: value for key, value in settings.items() if key != "kernel_size"}
    expected = F.conv2d(x, base.weight + layer.delta(), base.bias, **rest)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_half_precision_base_keeps_float32_factors_and_its_own_output() -> None:
    base = nn.Conv2d(4, 4, 3, padding=1)
    layer, x = random_layer(base, 2), torch.randn(1, 4, 8, 8)
    expected = layer(x)
    base.to(torch.bfloat16)
    got = layer(x.to(torch.bfloat16))
    assert (got.dtype, layer.down.dtype, layer.up.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    assert (got.float() - expected).norm() < 0.02 * expected.norm()
