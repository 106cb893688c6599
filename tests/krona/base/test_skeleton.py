"""The shipped configurations are those of the real checkpoints, counted to the parameter."""

from pathlib import Path

import pytest
import torch

from krona.adapter.inject import attention_linears, inject
from krona.adapter.kron import num_kron_params
from krona.adapter.layers import AdapterConfig
from krona.base.skeleton import Skeleton, build_skeleton
from krona.errors import KronaError

CLIP_L, OPEN_CLIP_H, OPEN_CLIP_G, VAE = 123_060_480, 340_387_840, 694_659_840, 83_653_863
PUBLISHED = {
    "sd15": (859_520_964, VAE, CLIP_L),
    "sd21": (865_910_724, VAE, OPEN_CLIP_H),
    "sdxl": (2_567_463_684, VAE, CLIP_L, OPEN_CLIP_G),
}
NUM_LINEARS = {"sd15": 128, "sd21": 128, "sdxl": 560}
# (a1, a2) → parameters on SD 1.5, SD 2.1, SDXL: N·a1·a2 + S/(a1·a2), S the size of the N layers.
COUNTS = {
    (2, 64): (746_944, 796_864, 7_534_080),
    (4, 64): (398_048, 423_008, 3_874_560),
    (16, 16): (398_048, 423_008, 3_874_560),
    (8, 64): (248_176, 260_656, 2_152_320),
    (64, 8): (248_176, 260_656, 2_152_320),
    (16, 64): (222_392, 228_632, 1_506_240),
    (32, 32): (222_392, 228_632, 1_506_240),
    (32, 64): (307_804, 310_924, 1_613_280),
}


@pytest.fixture(scope="module")
def skeletons() -> dict[str, Skeleton]:
    """The three real bases on the meta device."""
    with torch.device("meta"):
        return {name: build_skeleton(name) for name in PUBLISHED}


def _num_params(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_module_has_the_published_size(skeletons: dict[str, Skeleton]) -> None:
    for name, sizes in PUBLISHED.items():
        base = skeletons[name]
        modules = (base.unet, base.vae, *base.text_encoders)
        assert tuple(map(_num_params, modules)) == sizes


def test_native_sides_are_those_of_the_real_bases(skeletons: dict[str, Skeleton]) -> None:
    sides = {name: base.resolution for name, base in skeletons.items()}
    assert sides == {"sd15": 512, "sd21": 768, "sdxl": 1024}


def _shapes(base: Skeleton) -> list[tuple[int, int]]:
    linears = attention_linears(base.unet).values()
    return [(linear.out_features, linear.in_features) for linear in linears]


def test_kronecker_counts_are_those_of_the_facts(skeletons: dict[str, Skeleton]) -> None:
    for i, (name, base) in enumerate(skeletons.items()):
        shapes = _shapes(base)
        assert len(shapes) == NUM_LINEARS[name]
        counts = {pair: sum(num_kron_params(shape, *pair) for shape in shapes) for pair in COUNTS}
        assert counts == {pair: expected[i] for pair, expected in COUNTS.items()}


def test_the_paper_s_count_for_a1_of_1_is_wrong(skeletons: dict[str, Skeleton]) -> None:
    shapes = _shapes(skeletons["sdxl"])
    assert sum(out * in_ for out, in_ in shapes) == 955_187_200
    assert sum(num_kron_params(shape, 1, 64) for shape in shapes) == 560 * 64 + 955_187_200 // 64
    assert 560 * 64 + 955_187_200 // 64 == 14_960_640


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AdapterConfig(factors=(64, 8)), (248_176, 260_656, 2_152_320)),
        (AdapterConfig(kind="lora", rank=4), (797_184, 829_952, 5_806_080)),
    ],
)
def test_injected_parameters_are_the_counted_ones(
    skeletons: dict[str, Skeleton], config: AdapterConfig, expected: tuple[int, ...]
) -> None:
    for base, count in zip(skeletons.values(), expected, strict=True):
        adapter = inject(base.unet, config, seed=0)
        assert adapter.num_params == count
        assert next(iter(adapter.parameters())).is_meta
        adapter.eject()


@pytest.mark.parametrize(
    ("config", "unet", "text"),
    [
        (AdapterConfig(factors=(4, 64)), 398_048, 122_880),  # the paper's 0.52 M for SD
        (AdapterConfig(factors=(8, 64)), 248_176, 79_872),  # its 0.32 M
        (AdapterConfig(kind="lora", rank=4), 797_184, 294_912),  # its 1.09 M for LoRA
    ],
)
def test_the_paper_s_sd_counts_are_of_unet_and_clip_together(
    skeletons: dict[str, Skeleton], config: AdapterConfig, unet: int, text: int
) -> None:
    base = skeletons["sd15"]
    adapters = [inject(module, config, seed=0) for module in (base.unet, *base.text_encoders)]
    assert [len(adapter.layers) for adapter in adapters] == [128, 12 * 4]
    assert [adapter.num_params for adapter in adapters] == [unet, text]
    for adapter in adapters:
        adapter.eject()


def test_precision_reaches_all_but_the_autoencoder(tiny_sdxl: Path) -> None:
    base = build_skeleton(tiny_sdxl, torch.bfloat16)
    assert {base.unet.dtype, *(encoder.dtype for encoder in base.text_encoders)} == {torch.bfloat16}
    assert base.vae.dtype == torch.get_default_dtype() == torch.float32


def test_a_folder_needs_configs_and_no_weights(tiny_sd: Path, tmp_path: Path) -> None:
    for config in [*tiny_sd.glob("*/config.json"), tiny_sd / "model_index.json"]:
        copy = tmp_path / config.relative_to(tiny_sd)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(config.read_bytes())
    base = build_skeleton(tmp_path)
    assert (base.family, base.resolution) == ("sd", 16)
    (tmp_path / "vae/config.json").unlink()
    with pytest.raises(KronaError, match="vae has no config to build from"):
        build_skeleton(tmp_path)


def test_an_unknown_base_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KronaError, match="'sd3' does not exist; give 'toyland', 'sd15', 'sd21'"):
        build_skeleton("sd3")
