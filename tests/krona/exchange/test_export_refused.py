"""Exports that a format, a place or a base does not allow: refused, and nothing is written."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from trained import assert_untouched, place, snapshot, unchanged

from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.export import export_adapter
from krona.exchange.formats.names import ExportFormat

SQUARE = AdapterConfig(factors=(4, 4), scale=0.5)
OBLONG = AdapterConfig(factors=(8, 4), scale=0.5)
NARROW = AdapterConfig(factors=(2, 32))
MIXED = AdapterConfig(factors={"q": (4, 4), "v": (2, 2)}, targets=("q", "v"))


def test_single_file_refuses_a_base_without_original_names(
    sd: Base, train: Any, tmp_path: Path
) -> None:
    path, _ = train(sd, SQUARE)
    tiny = replace(sd, vae=AutoencoderTiny())
    with pytest.raises(KronaError, match=r"has AutoencoderTiny; the merged format, a folder"):
        export_adapter(path, base=tiny, format="merged-file", output=place(tmp_path, "merged-file"))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("format", "config", "message"),
    [
        ("diffusers", OBLONG, r"one square factor .* has \(8, 4\); .* fits is \((4|8), \1\)"),
        ("diffusers", MIXED, r"has \(2, 2\), \(4, 4\); the nearest that fits is \((2|4), \1\)"),
        ("diffusers", NARROW, r"has \(2, 32\); the nearest that fits is \(8, 8\)"),
        ("lycoris", OBLONG, r"at most d/f .* has \(8, 4\); the nearest that fits is \(4, 4\)"),
        ("lycoris", AdapterConfig(factors=(32, 32)), r"the nearest that fits is \(4, 4\)"),
        ("peft", OBLONG, r"PEFT loads one square .* nearest that fits is \((4|8), \1\)"),
        ("peft", MIXED, r"has \(2, 2\), \(4, 4\); the nearest that fits is \((2|4), \1\)"),
    ],
)
def test_shape_that_a_format_cannot_hold_is_refused_with_the_nearest(
    sd: Base, train: Any, tmp_path: Path, format: ExportFormat, config: Any, message: str
) -> None:
    path, _ = train(sd, config)
    with pytest.raises(KronaError, match=message):
        export_adapter(path, base=sd, format=format, output=place(tmp_path, format))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("rank", [0, -1])
def test_rank_that_is_none_is_refused(sd: Base, train: Any, tmp_path: Path, rank: int) -> None:
    path, _ = train(sd, SQUARE)
    with pytest.raises(KronaError, match=f"rank={rank} is not a positive integer"):
        export_adapter(path, base=sd, format="lora", output=place(tmp_path, "lora"), rank=rank)


def test_rank_of_another_format_is_refused(sd: Base, train: Any, tmp_path: Path) -> None:
    path, _ = train(sd, SQUARE)
    with pytest.raises(KronaError, match="rank=4 is for the lora format; kohya has none"):
        export_adapter(path, base=sd, format="kohya", output=place(tmp_path, "kohya"), rank=4)


def test_other_weights_of_the_same_shape_are_refused_unless_asked_for(
    sd: Base, train: Any, tmp_path: Path
) -> None:
    path, _ = train(sd, SQUARE, base_hash="0123456789abcdef")
    output = place(tmp_path, "kohya")
    with pytest.raises(KronaError, match=r"hash 0123456789ab; .*--any-base"), unchanged(sd):
        export_adapter(path, base=sd, format="kohya", output=output)
    assert not output.parent.exists()
    export_adapter(path, base=sd, format="kohya", output=output, is_any_base=True)
    assert output.exists()


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        ("khoya", "a.safetensors", "format 'khoya' is unknown; did you mean 'kohya'"),
        ("kohya", "a.ckpt", r"no file name for the kohya format; end it in \.safetensors"),
        ("diffusers", "", r"no file name for the diffusers format"),
        ("merged", "", "exists and is not an empty folder"),
    ],
)
def test_wrong_output_is_refused(
    sd: Base, train: Any, tmp_path: Path, format: Any, name: str, message: str
) -> None:
    path, _ = train(sd, SQUARE)
    with pytest.raises(KronaError, match=message):
        export_adapter(path, base=sd, format=format, output=tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_wrong_base_is_refused_and_left_alone(
    sd: Base, sdxl: Base, train: Any, tmp_path: Path
) -> None:
    output = tmp_path / "a.safetensors"
    path, _ = train(sd, SQUARE)
    with pytest.raises(KronaError, match=r"is for a sd base; .* is sdxl"):
        export_adapter(path, base=sdxl, format="kohya", output=output)
    before = snapshot(sdxl.unet)
    path, _ = train(sd, SQUARE, family="sdxl", base_model="another")
    with pytest.raises(KronaError, match=r"was trained on another, whose .* \(--any-base\)"):
        export_adapter(path, base=sdxl, format="kohya", output=output)
    with pytest.raises(KronaError, match=r"does not fit .* \(it was trained on another\): "):
        export_adapter(path, base=sdxl, format="kohya", output=output, is_any_base=True)
    assert_untouched(sdxl.unet, before)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_half_precision_base_is_refused(sd: Base, train: Any, tmp_path: Path) -> None:
    path, _ = train(sd, SQUARE)
    half = replace(sd, unet=copy.deepcopy(sd.unet).to(torch.bfloat16))
    with pytest.raises(KronaError, match=r"needs a float32 base; .* is in torch\.bfloat16"):
        export_adapter(path, base=half, format="kohya", output=tmp_path / "a.safetensors")
