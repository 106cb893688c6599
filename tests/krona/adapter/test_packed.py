"""One linear with layers of many adapters: their sum of products, whichever way it is computed."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from krona.adapter.layers import AdapterLayer, KronLinear, LoraLinear
from krona.adapter.packed import PackedLinear

WIDTH = 24


def kron_layer(base: nn.Linear, a1: int, a2: int, scale: float = 1.0) -> KronLinear:
    A, B = torch.randn(a1, a2), torch.randn(base.out_features // a1, base.in_features // a2)
    layer = KronLinear.of(base, A, B)
    layer.scale = scale
    return layer


def unlike_layers(base: nn.Linear) -> list[AdapterLayer | None]:
    """Two that are alike, an adapter without a layer here, one of other factors, and a LoRA."""
    width = base.out_features
    lora = LoraLinear.of(base, torch.randn(3, base.in_features), torch.randn(width, 3))
    return [
        kron_layer(base, 4, 8, scale=0.5),
        kron_layer(base, 4, 8, scale=0.5),
        None,
        kron_layer(base, 2, 3),
        lora,
    ]


def separately(base: nn.Linear, layers: Sequence[AdapterLayer | None], x: Tensor) -> list[Tensor]:
    """Output, and gradients of x and of all factors, with the updates as whole matrices."""
    pieces = []
    for layer, rows in zip(layers, torch.split(x, 2), strict=True):
        update: Tensor | float = 0.0
        if isinstance(layer, KronLinear):
            update = layer.scale * torch.kron(layer.A, layer.B)
        elif isinstance(layer, LoraLinear):
            update = layer.scale * layer.up @ layer.down
        pieces.append(nn.functional.linear(rows, base.weight + update, base.bias))
    return outcome(torch.cat(pieces), layers, x)


def outcome(y: Tensor, layers: Sequence[AdapterLayer | None], x: Tensor) -> list[Tensor]:
    factors = [f for layer in layers if layer is not None for f in own_factors(layer)]
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *factors])]


def own_factors(layer: AdapterLayer) -> list[Tensor]:
    return [getattr(layer, name) for name in layer.factor_names]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [(), (5,)])
@pytest.mark.parametrize("width", [WIDTH, 288])
@pytest.mark.parametrize("present", [(0, 1, 2, 3, 4), (0, 2, 4)])
def test_each_adapters_rows_get_its_own_update(
    bias: bool, tokens: tuple[int, ...], width: int, present: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    base = nn.Linear(WIDTH, width, bias=bias).requires_grad_(False)
    layers = unlike_layers(base)
    packed = PackedLinear(layers)
    packed.set_rows([2 if i in present else 0 for i in range(len(layers))])
    x = torch.randn(2 * len(present), *tokens, WIDTH, requires_grad=True)
    own = [layers[i] for i in present]
    got = outcome(packed(x), own, x)
    for one, other in zip(got, separately(base, own, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_factors_may_be_less_exact_than_the_base() -> None:
    base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
    layers = unlike_layers(base)
    base.double()
    packed = PackedLinear(layers)
    packed.set_rows([2] * len(layers))
    x = torch.randn(2 * len(layers), WIDTH, dtype=torch.float64, requires_grad=True)
    _, *gradients = outcome(packed(x), layers, x)
    assert {gradient.dtype for gradient in gradients[1:]} == {torch.float32}


@pytest.mark.parametrize("is_autocast", [False, True])
def test_a_small_update_survives_bf16(is_autocast: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
    layers = unlike_layers(base)
    for layer in layers:
        if layer is not None:
            own_factors(layer)[0].data.mul_(1e-4)
    base.weight.data.fill_(1.0)  # gives nothing for x, and W + ΔW would round ΔW away
    x = torch.zeros(2 * len(layers), WIDTH)
    x[:, 0], x[:, 1] = 1.0, -1.0
    packed = PackedLinear(layers)
    packed.set_rows([2] * len(layers))
    if not is_autocast:
        base.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        y = packed(x if is_autocast else x.bfloat16())
    for rows, layer in zip(torch.split(y.float(), 2), layers, strict=True):
        delta = torch.zeros(WIDTH, WIDTH) if layer is None else layer.delta()
        expected = (delta[:, 0] - delta[:, 1]).expand(2, -1)
        torch.testing.assert_close(rows, expected, rtol=0.02, atol=2e-6)
