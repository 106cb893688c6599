"""Which weights of a component are read, by the names of its files alone."""

from collections.abc import Iterable

import pytest

from krona.base.weight_files import choose_weights, read_names

FULL, HALF = "model.safetensors", "model.fp16.safetensors"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
HALF_SHARDS = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"]
INDEX, HALF_INDEX = "model.safetensors.index.json", "model.safetensors.index.fp16.json"


@pytest.mark.parametrize(
    ("names", "prefers_half", "read"),
    [
        ([FULL, HALF], False, [FULL]),
        ([FULL, HALF], True, [HALF]),
        ([FULL], True, [FULL]),
        ([HALF], False, [HALF]),
        ([*SHARDS, INDEX, *HALF_SHARDS, HALF_INDEX], False, [*SHARDS, INDEX]),
        ([*SHARDS, INDEX, *HALF_SHARDS, HALF_INDEX], True, [*HALF_SHARDS, HALF_INDEX]),
        ([*SHARDS, INDEX, HALF_SHARDS[0], HALF_INDEX], True, [*SHARDS, INDEX]),
        ([SHARDS[1], INDEX, HALF], False, [HALF]),
        (["diffusion_pytorch_model-00001-of-00001.fp16.safetensors"], False, ...),
        ([FULL, "model.non_ema.safetensors", "model.bin", "openvino_model.xml"], False, [FULL]),
    ],
)
def test_the_preferred_variant_is_read_if_it_is_whole(
    names: list[str], prefers_half: bool, read: Iterable[str]
) -> None:
    weights = choose_weights(names, prefers_half=prefers_half)
    assert weights.names == tuple(sorted(names if read is ... else read))
    assert weights.is_whole
    assert weights.is_half == any("fp16" in name for name in weights.names)


def test_weights_of_which_shards_are_missing_are_not_whole() -> None:
    weights = choose_weights([SHARDS[0], INDEX], prefers_half=False)
    assert (weights.names, weights.is_whole) == ((SHARDS[0], INDEX), False)
    assert not choose_weights(["config.json", "model.bin"], prefers_half=True).names


def test_configs_and_vocabularies_are_read_beside_one_variant() -> None:
    names = ["config.json", "merges.txt", "vocab.json", FULL, HALF, HALF_INDEX, "readme.md"]
    settings = ["config.json", "merges.txt"]
    assert read_names(names, prefers_half=False) == [*settings, FULL, "vocab.json"]
    assert read_names(names, prefers_half=True) == [*settings, HALF, HALF_INDEX, "vocab.json"]
