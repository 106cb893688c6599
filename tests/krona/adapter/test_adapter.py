import json

import pytest
import torch
from torch import nn

from krona.adapter.layers import AdapterConfig, KronLinear, LoraLinear
from krona.errors import KronaError


def make_base(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(24, 16, dtype=dtype).requires_grad_(False)


def make_layer(kind, *, base=None, init="kaiming", scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"init": init, "scale": scale, "generator": generator}
    base = base or make_base()
    return (
        KronLinear(base, (4, 2), **options) if kind == "krona" else LoraLinear(base, 3, **options)
    )


def randomize(layer):
    for name in layer.factor_names:
        nn.init.normal_(getattr(layer, name), std=0.3)
    return layer


@pytest.mark.parametrize("kind", ["krona", "lora"])
def test_fresh_layer_is_bit_equal_to_its_base(kind):
    layer = make_layer(kind)
    x = torch.randn(5, 24)
    assert torch.equal(layer(x), layer.base(x))
    assert not layer.delta().any()


@pytest.mark.parametrize("kind", ["krona", "lora"])
def test_forward_equals_the_base_with_delta_added(kind):
    layer = randomize(make_layer(kind, scale=0.5))
    x = torch.randn(2, 5, 24)
    expected = x @ (layer.base.weight + layer.delta()).T + layer.base.bias
    torch.testing.assert_close(layer(x), expected)


def test_deltas_are_the_products_of_the_factors():
    krona, lora = (
        randomize(make_layer("krona", scale=2.0)),
        randomize(make_layer("lora", scale=2.0)),
    )
    torch.testing.assert_close(krona.delta(), 2 * torch.kron(krona.A, krona.B))
    torch.testing.assert_close(lora.delta(), 2 * lora.up @ lora.down)


def test_factor_shapes_and_counts():
    krona, lora = make_layer("krona"), make_layer("lora")
    assert (krona.A.shape, krona.B.shape) == ((4, 2), (4, 12))
    assert (lora.down.shape, lora.up.shape) == ((3, 24), (16, 3))


@pytest.mark.parametrize("kind", ["krona", "lora"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_stay_float32_over_a_half_precision_base(kind, dtype):
    layer = make_layer(kind, base=make_base(dtype))
    y = layer(torch.randn(5, 24, dtype=dtype))
    y.sum().backward()
    grads = [getattr(layer, name).grad for name in layer.factor_names]
    assert y.dtype == dtype
    assert [g.dtype for g in grads] == [torch.float32] * 2
    assert layer.base.weight.grad is None


@pytest.mark.parametrize("kind", ["krona", "lora"])
def test_works_under_autocast(kind):
    layer = randomize(make_layer(kind))
    x = torch.randn(5, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    assert all(getattr(layer, name).grad.dtype == torch.float32 for name in layer.factor_names)


def test_kaiming_init_is_torchs_of_the_layer_that_the_published_code_holds_a_as():
    """That layer goes from a1 to a2; its weight is A transposed, and its fan-in a1."""
    A = make_factor((4, 64), "kaiming")
    assert A.abs().max() <= 1 / 2
    assert A.std().item() == pytest.approx(1 / 2 / 3**0.5, rel=0.1)
    assert torch.equal(A.flatten(), kaiming_weight(out_features=64, in_features=4).flatten())


def test_kaiming_init_of_lora_is_torchs_of_its_own_layer():
    generator = torch.Generator().manual_seed(0)
    layer = LoraLinear(nn.Linear(256, 64), 4, init="kaiming", scale=1.0, generator=generator)
    assert torch.equal(layer.down, kaiming_weight(out_features=4, in_features=256))


@pytest.mark.parametrize("factors", [(4, 64), (64, 8)])
def test_normal_init_has_the_papers_deviation_of_one_over_a1(factors):
    A = make_factor(factors, "normal")
    assert A.std().item() == pytest.approx(1 / factors[0], rel=0.1)


def test_the_default_is_drawn_as_the_published_code_draws():
    assert AdapterConfig().init == "normal"


def make_factor(factors, init):
    generator = torch.Generator().manual_seed(0)
    layer = KronLinear(nn.Linear(256, 256), factors, init=init, scale=1.0, generator=generator)
    return layer.A.detach()


def kaiming_weight(*, out_features, in_features):
    weight = torch.empty(out_features, in_features)
    generator = torch.Generator().manual_seed(0)
    return nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)


@pytest.mark.parametrize("kind", ["krona", "lora"])
def test_init_depends_on_its_generator_alone(kind):
    torch.manual_seed(1)
    first = make_layer(kind, seed=7)
    torch.manual_seed(2)
    again, other = make_layer(kind, seed=7), make_layer(kind, seed=8)
    name = first.factor_names[0]
    assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize(
    "config",
    [
        AdapterConfig(),
        AdapterConfig(kind="lora", rank=8, targets=("q", "v"), init="normal", scale=0.5),
        AdapterConfig(factors={"q": (4, 8), "k": (2, 2)}, targets=("k", "q")),
    ],
)
def test_config_survives_json(config):
    assert AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_targets_keep_one_order_and_may_be_letters():
    assert AdapterConfig(targets=("o", "q")) == AdapterConfig(targets=("q", "o"))
    assert AdapterConfig(targets="vq").targets == ("q", "v")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "kron"}, "kind 'kron' is unknown; did you mean 'krona'"),
        ({"init": "zeros"}, "init 'zeros' is unknown; known: kaiming, normal"),
        ({"targets": ("q", "x")}, "target 'x' is unknown"),
        ({"targets": ()}, "targets is empty"),
        ({"factors": (4, 0)}, "not two positive integers"),
        ({"factors": (4, 2, 1)}, "not two positive integers"),
        ({"factors": (True, 2)}, "not two positive integers"),
        ({"factors": {"q": (4, 2)}}, "given for q, but the targets are q, k, v, o"),
        ({"rank": 0}, "rank=0 is not a positive integer"),
        ({"scale": float("nan")}, "scale=nan is not finite"),
        ({"factor": (4, 2)}, "unknown adapter setting 'factor'; did you mean 'factors'"),
    ],
)
def test_wrong_setting_is_refused_with_its_fix(settings, message):
    with pytest.raises(KronaError, match=message):
        AdapterConfig.from_dict(settings)
