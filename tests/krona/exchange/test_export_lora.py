"""A LoRA of another tool, exported: to every format that holds it, equal to what was read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from loras import attention, blocks, kohya, outputs, random_lora
from safetensors.torch import load_file, save_file
from trained import assert_close, place, unchanged

from krona.adapter.inject import is_of_text
from krona.adapter.low_rank import as_lora
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.attach import attach
from krona.exchange.export import export_adapter

READABLE = ("kohya", "lora", "diffusers", "peft")


@pytest.fixture(params=["sd", "sdxl"])
def base(request: pytest.FixtureRequest) -> Base:
    return request.getfixturevalue(request.param)


def save_lora(base: Base, folder: Path, paths: list[str]) -> Path:
    path = folder / "mine.safetensors"
    save_file(kohya(base, random_lora(base, paths, ranks=(2, 4))), path)
    return path


@pytest.mark.parametrize(
    "format", ["kohya", "lora", "diffusers", "lycoris", "peft", "merged", "merged-file"]
)
def test_lora_of_convolutions_and_ranks_that_differ_is_exported_whole(
    base: Base, tmp_path: Path, format: Any
) -> None:
    holds_text = format in ("kohya", "lora", "merged", "merged-file")
    paths = [path for path in blocks(base) if holds_text or not is_of_text(path)]
    path, output = save_lora(base, tmp_path, paths), place(tmp_path, format)
    with unchanged(base):
        report = export_adapter(path, base=base, format=format, output=output, dtype="fp32")
    assert report.rel_error < 1e-5
    assert not report.loaded_by.startswith("krona")
    if format in READABLE:
        both = []
        for file in (path, output):
            adapter = attach(base, file)
            assert len(adapter.layers) == len(paths)
            both.append(outputs(base))
            adapter.eject()
        for got, expected in zip(*both, strict=True):
            assert_close(got, expected)
    if format == "lora":
        data = ModelCard.load(output.parent / "README.md").data.to_dict()
        assert "lora" in data["tags"]
        assert "lokr" not in data["tags"]


def test_lora_is_cut_to_the_best_of_a_lower_rank(sd: Base, tmp_path: Path) -> None:
    adapter = attach(sd, save_lora(sd, tmp_path, blocks(sd)))
    adapter.eject()
    cut = as_lora(adapter, 1)
    for path, layer in adapter.layers.items():
        U, sizes, Vh = torch.linalg.svd(layer.delta().flatten(1), full_matrices=False)
        best = (sizes[0] * torch.outer(U[:, 0], Vh[0])).view_as(layer.base.weight)
        torch.testing.assert_close(cut.layers[path].delta(), best, atol=1e-5, rtol=1e-3)


def test_lora_of_text_encoders_is_refused_where_a_unet_alone_is_loaded(
    sd: Base, tmp_path: Path
) -> None:
    path = save_lora(sd, tmp_path, attention(sd))
    with pytest.raises(KronaError, match="text encoders; kohya, lora, merged, merged-file can"):
        export_adapter(path, base=sd, format="diffusers", output=place(tmp_path, "diffusers"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.safetensors"]


def test_half_precision_lora_exports_without_another_rounding(sd: Base, tmp_path: Path) -> None:
    path, output = tmp_path / "half.safetensors", place(tmp_path, "kohya")
    weights = random_lora(sd, attention(sd))
    save_file({k: t.half() for k, t in kohya(sd, weights, alpha=3.0).items()}, path)
    report = export_adapter(path, base=sd, format="kohya", output=output)
    written, read = load_file(output), load_file(path)
    assert all(torch.equal(written[name], read[name]) for name in read if "lora_" in name)
    assert report.dtype == "fp16"
