import copy

import pytest
import torch
from torch import nn

from krona.adapter.inject import attention_linears, inject, projection_of
from krona.adapter.layers import AdapterConfig, KronLinear, LoraLinear
from krona.errors import KronaError

CONFIGS = [
    AdapterConfig(factors=(8, 4)),
    AdapterConfig(factors={"q": (4, 4), "o": (2, 16)}, targets=("q", "o"), scale=0.5),
    AdapterConfig(kind="lora", rank=3, targets=("k", "v")),
]


@pytest.fixture
def unet(sd):
    return copy.deepcopy(sd.unet)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    return latents, torch.tensor([3, 700]), torch.randn(2, 5, 32, generator=generator)


def predict(unet, inputs):
    with torch.no_grad():
        return unet(*inputs, return_dict=False)[0]


def randomize(adapter, std=0.1):
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters():
        parameter.data.normal_(std=std, generator=generator)


def snapshot(unet):
    return dict(unet.named_modules()), {k: v.clone() for k, v in unet.state_dict().items()}


def assert_untouched(unet, before):
    modules, state = before
    assert dict(unet.named_modules()) == modules
    assert list(unet.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())


@pytest.mark.parametrize("config", CONFIGS)
def test_fresh_adapter_leaves_the_prediction_bit_equal(unet, inputs, config):
    expected = predict(unet, inputs)
    adapter = inject(unet, config, seed=0)
    assert torch.equal(predict(unet, inputs), expected)
    assert {projection_of(path) for path in adapter.layers} == set(config.targets)
    layer_type = KronLinear if config.kind == "krona" else LoraLinear
    assert sum(isinstance(m, layer_type) for m in unet.modules()) == len(adapter.layers)


@pytest.mark.parametrize("config", CONFIGS)
def test_inject_then_eject_is_the_identity(unet, inputs, config):
    before = snapshot(unet)
    adapter = inject(unet, config, seed=0)
    randomize(adapter)
    adapter.eject()
    adapter.eject()
    assert_untouched(unet, before)
    assert not adapter.is_injected
    inject(unet, config, seed=0)


@pytest.mark.parametrize("config", CONFIGS)
def test_merge_predicts_what_the_adapter_did(unet, inputs, config):
    base = predict(unet, inputs)
    names = list(unet.state_dict())
    adapter = inject(unet, config, seed=0)
    randomize(adapter)
    expected = predict(unet, inputs)
    adapter.merge()
    assert list(unet.state_dict()) == names
    torch.testing.assert_close(predict(unet, inputs), expected, rtol=1e-4, atol=1e-5)
    assert (expected - base).abs().max() > 1e-2


def test_merge_refuses_half_precision_and_stays_injected(unet):
    adapter = inject(unet.to(torch.bfloat16), CONFIGS[0], seed=0)
    with pytest.raises(KronaError, match=r"cannot merge into torch\.bfloat16 weights"):
        adapter.merge()
    assert adapter.is_injected


def test_seed_alone_decides_the_factors(unet):
    states = []
    for torch_seed, seed in [(1, 5), (2, 5), (2, 6)]:
        torch.manual_seed(torch_seed)
        adapter = inject(unet, CONFIGS[0], seed=seed)
        states.append(adapter.state_dict())
        adapter.eject()
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith(".A"))


@pytest.mark.parametrize("config", CONFIGS)
def test_state_dict_round_trip_gives_the_same_prediction(unet, inputs, config):
    adapter = inject(unet, config, seed=0)
    randomize(adapter)
    state, expected = adapter.state_dict(), predict(unet, inputs)
    adapter.eject()
    fresh = inject(unet, config, seed=1)
    fresh.load_state_dict(state)
    assert torch.equal(predict(unet, inputs), expected)
    adapter.parameters()[0].data.zero_()
    assert state.keys() == fresh.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in fresh.state_dict().items())


def test_wrong_state_is_refused_and_changes_nothing(unet):
    adapter = inject(unet, CONFIGS[0], seed=0)
    good = adapter.state_dict()
    name = next(iter(good))
    wrong_states = {
        f"misses '{name}'": {k: v for k, v in good.items() if k != name},
        "has the unknown 'mid.A'": good | {"mid.A": torch.ones(1)},
        "has the shape \\(1, 2\\), but this adapter's is \\(8, 4\\)": good
        | {name: torch.ones(1, 2)},
    }
    for message, state in wrong_states.items():
        doubled = {k: 2 * v for k, v in state.items()}
        with pytest.raises(KronaError, match=message):
            adapter.load_state_dict(doubled)
    assert all(torch.equal(value, good[k]) for k, value in adapter.state_dict().items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            AdapterConfig(factors=(48, 8)),
            r"a1=48 does not divide out_features=64 of .*to_q; .*32 and 64\): a1 = 1, 2, .*, 64$",
        ),
        (
            AdapterConfig(factors=(4, 64)),
            r"a2=64 does not divide in_features=32 of .*attn2\.to_k; .*a2 = 1, 2, 4, 8, 16, 32$",
        ),
        (
            AdapterConfig(factors={"q": (4, 64), "k": (4, 128)}, targets=("q", "k")),
            r"a2=128 does not divide in_features=64 of .*to_k",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused_with_the_valid_ones(unet, config, message):
    before = snapshot(unet)
    with pytest.raises(KronaError, match=message):
        inject(unet, config, seed=0)
    assert_untouched(unet, before)


def test_second_injection_is_refused(unet):
    adapter = inject(unet, CONFIGS[0], seed=0)
    with pytest.raises(KronaError, match="already injected"):
        inject(unet, CONFIGS[2], seed=0)
    assert len(attention_linears(unet)) == 0
    adapter.eject()
    assert len(attention_linears(unet)) == len(adapter.layers)


def test_model_without_attention_is_refused():
    with pytest.raises(KronaError, match="no attention projection to adapt in Sequential"):
        inject(nn.Sequential(nn.Linear(4, 4)), AdapterConfig(), seed=0)


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_survive_gradient_checkpointing(unet, inputs, config):
    adapter = inject(unet, config, seed=0)
    randomize(adapter)
    unet.train()
    grads = []
    for enabled in (False, True):
        if enabled:
            unet.enable_gradient_checkpointing()
        loss = unet(*inputs, return_dict=False)[0].square().mean()
        grads.append(torch.autograd.grad(loss, adapter.parameters()))
    torch.testing.assert_close(grads[0], grads[1])
    assert all(grad.abs().max() > 0 for grad in grads[0])
    assert all(parameter.grad is None for parameter in unet.parameters())
