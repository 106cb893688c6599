"""Which tools load which factors: the table of what was tried, row by row."""

import pytest
import torch

from krona.adapter.inject import attention_linears, make_adapter
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.base.skeleton import build_skeleton
from krona.errors import KronaError
from krona.exchange.formats.squares import Shape, check_peft
from krona.planning.loaders import Loader, exact_lora_rank, loaders


@pytest.fixture(scope="module")
def shapes() -> dict[str, Shape]:
    """The layers of SD 1.5's UNet."""
    with torch.device("meta"):
        linears = attention_linears(build_skeleton("sd15").unet)
    return {path: (linear.out_features, linear.in_features) for path, linear in linears.items()}


def _by_tool(config: AdapterConfig, shapes: dict[str, Shape]) -> dict[str, Loader]:
    return {loader.tools.split()[0].strip(","): loader for loader in loaders(config, shapes)}


@pytest.mark.parametrize(
    ("factors", "lycoris", "diffusers"),
    [
        ((4, 64), False, False),
        ((64, 8), False, False),
        ((1, 1), True, True),
        ((16, 16), True, True),
        ((32, 32), False, True),
        ((64, 64), False, True),
    ],
)
def test_square_factors_alone_load_in_lycoris_and_diffusers(
    factors: tuple[int, int], lycoris: bool, diffusers: bool, shapes: dict[str, Shape]
) -> None:
    found = _by_tool(AdapterConfig(factors=factors), shapes)
    assert {tool: loader.does_load for tool, loader in found.items()} == {
        "ComfyUI": True,
        "LyCORIS": lycoris,
        "diffusers": diffusers,
        "PEFT": diffusers,
        "whatever": True,
    }


def test_a_refusal_names_the_nearest_shape_that_loads(shapes: dict[str, Shape]) -> None:
    found = _by_tool(AdapterConfig(factors=(64, 64)), shapes)
    assert found["LyCORIS"].reason == "it holds f×f up to 16×16; nearest: 16×16"
    found = _by_tool(AdapterConfig(factors=(4, 64)), shapes)
    assert found["diffusers"].reason == "it holds one f×f for all layers; nearest: 16×16"


def test_squares_that_differ_between_projections_do_not_load_in_diffusers(
    shapes: dict[str, Shape],
) -> None:
    mixed = AdapterConfig(factors={"q": (4, 4), "k": (8, 8), "v": (8, 8), "o": (4, 4)})
    found = _by_tool(mixed, shapes)
    assert (found["LyCORIS"].does_load, found["diffusers"].does_load) == (True, False)


def test_the_plan_and_the_export_name_the_same_nearest_square(sd: Base) -> None:
    """The mean of a1·a2 over the layers is 256^(3/4) = 8·8."""
    mixed = AdapterConfig(factors={"q": (1, 1), "k": (16, 16), "v": (16, 16), "o": (16, 16)})
    adapter = make_adapter(sd.unet, mixed, seed=0)
    linears = attention_linears(sd.unet).items()
    shapes = {path: (linear.out_features, linear.in_features) for path, linear in linears}
    assert _by_tool(mixed, shapes)["PEFT"].reason.endswith("nearest: 8×8")
    with pytest.raises(KronaError, match=r"the nearest that fits is \(8, 8\)"):
        check_peft(adapter, "PEFT")


def test_lora_loads_everywhere(shapes: dict[str, Shape]) -> None:
    config = AdapterConfig(kind="lora", rank=4)
    assert all(loader.does_load for loader in loaders(config, shapes))
    assert exact_lora_rank(config, shapes) == 4


def test_64x8_is_a_lora_of_rank_160_on_1280() -> None:
    """A (64, 8) has rank 8 and B (20, 160) has rank 20."""
    square = {"attn1.to_q": (1280, 1280)}
    assert exact_lora_rank(AdapterConfig(factors=(64, 8), targets=("q",)), square) == 160


def test_a_single_file_holds_no_base_with_odd_parts(shapes: dict[str, Shape]) -> None:
    found = loaders(AdapterConfig(), shapes, odd_parts=["AutoencoderTiny"])[-1]
    assert (found.format, found.does_load) == ("merged-file", False)
    assert found.reason == "it holds no AutoencoderTiny"
