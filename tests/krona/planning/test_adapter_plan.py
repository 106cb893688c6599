"""A plan's numbers are the real ones: of files, of weights, of what training allocates."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save
from torch import nn

from krona.adapter.inject import inject
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.planning.plan import Plan, PlanConfig, make_plan

FITTING = AdapterConfig(factors=(8, 4))


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


@pytest.fixture(scope="module")
def sd15() -> Plan:
    """SD 1.5 at 512 px with the factors of the paper's text, in bfloat16, one image."""
    adapter = AdapterConfig(factors=(4, 64), adapts_text=True)
    return make_plan("sd15", PlanConfig(adapter=adapter, precision="bf16", batch_size=1))


def test_sd15_with_clip_adapters_is_the_paper_s_half_million(sd15: Plan) -> None:
    assert (sd15.num_layers, sd15.num_params, sd15.num_text_params) == (176, 520_928, 122_880)
    assert sd15.num_base_params == 859_520_964 + 123_060_480
    assert sd15.share_frac == pytest.approx(0.00053, rel=0.01)


def test_sd15_memory_is_its_weights_and_the_known_activations(sd15: Plan) -> None:
    """A further image of 512 px takes 0.82 GB without text adapters, by a roofline model."""
    memory = sd15.memory
    assert memory.unet == 2 * 859_520_964
    assert memory.adapter == 20 * 520_928
    assert memory.saved == pytest.approx(0.82e9, rel=0.05)
    assert 0 < memory.transient < memory.saved
    assert memory.total == sum(vars(memory).values())


def test_a_file_is_as_large_as_planned(sd: Base, tiny_sd: Path) -> None:
    adapter = inject(sd.unet, FITTING, seed=0)
    state = adapter.state_dict()
    adapter.eject()
    planned = make_plan(str(tiny_sd), PlanConfig(adapter=FITTING)).file_bytes
    assert planned == len(save(state))
    assert planned > 4 * adapter.num_params


def test_weights_take_what_the_loaded_base_takes(sdxl: Base, tiny_sdxl: Path) -> None:
    memory = make_plan(str(tiny_sdxl), PlanConfig(adapter=FITTING)).memory
    assert memory.unet == _bytes_of(sdxl.unet)
    assert memory.text_encoders == sum(map(_bytes_of, sdxl.text_encoders))
    assert memory.vae == _bytes_of(sdxl.vae)


def test_encoders_that_are_not_kept_take_no_memory(tiny_sd: Path) -> None:
    config = PlanConfig(adapter=FITTING, keeps_encoders=False)
    memory = make_plan(str(tiny_sd), config).memory
    assert (memory.text_encoders, memory.vae) == (0, 0)
    config = PlanConfig(adapter=replace(FITTING, adapts_text=True), keeps_encoders=False)
    memory = make_plan(str(tiny_sd), config).memory
    assert memory.text_encoders > memory.vae == 0


def test_activations_and_flops_grow_with_the_batch(tiny_sd: Path) -> None:
    sizes = (8, 16, 24)  # from 8 on every layer has rows enough to form its weight
    plans = [make_plan(str(tiny_sd), PlanConfig(adapter=FITTING, batch_size=n)) for n in sizes]
    one, two, three = ((p.memory.saved, p.forward_flops) for p in plans)
    assert three[0] - two[0] == two[0] - one[0] > 0
    assert three[1] - two[1] == two[1] - one[1] > 0


def test_text_adapters_bring_gradients_into_the_encoders(tiny_sdxl: Path) -> None:
    plain = make_plan(str(tiny_sdxl), PlanConfig(adapter=FITTING))
    text = make_plan(str(tiny_sdxl), PlanConfig(adapter=replace(FITTING, adapts_text=True)))
    assert text.num_layers == plain.num_layers + 2 * 2 * 4
    assert text.memory.saved > plain.memory.saved
    assert text.forward_flops > plain.forward_flops
    assert text.num_params - text.num_text_params == plain.num_params


def test_the_embedded_base_is_planned_like_any_other() -> None:
    made = make_plan("toyland", PlanConfig(adapter=AdapterConfig()))
    assert (made.resolution, made.num_layers, made.num_params) == (64, 56, 32_368)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PlanConfig(adapter=AdapterConfig(factors=(48, 4))), r"a1=48 .*nearest 32 and 64"),
        (PlanConfig(adapter=FITTING, resolution=15), "resolution=15 is no multiple of 4 px"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    config: PlanConfig, message: str, tiny_sd: Path
) -> None:
    with pytest.raises(KronaError, match=message):
        make_plan(str(tiny_sd), config)


def test_unknown_settings_are_refused_with_the_known_ones() -> None:
    with pytest.raises(KronaError, match="precision 'fp8' is unknown; did you mean 'fp"):
        PlanConfig(adapter=FITTING, precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(KronaError, match="batch_size=0 must be 1 or more"):
        PlanConfig(adapter=FITTING, batch_size=0)
