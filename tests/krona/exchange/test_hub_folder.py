"""A folder for the Hugging Face Hub: what is exported, its card, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from loras import attention, kohya, random_lora
from PIL import Image
from safetensors.torch import save_file

from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.card import Showcase
from krona.exchange.export import export_adapter, hub_output

SQUARE = AdapterConfig(factors=(4, 4))
SHOWCASE = Showcase(samples=(("a sks toy", Image.new("RGB", (8, 8), "red")),))


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("format", ["kohya", "lora", "diffusers"])
def test_folder_holds_the_file_and_a_card_that_the_hub_reads(
    sd: Base, train: Any, tmp_path: Path, format: Any
) -> None:
    path, _ = train(sd, SQUARE)
    folder = tmp_path / "hub"
    for _ in range(2):
        output = hub_output(folder, "duck", format)
        export_adapter(path, base=sd, format=format, output=output, showcase=SHOWCASE)
    assert names(folder) == {"duck.safetensors", "README.md", "samples/00.png"}
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert data["base_model"] == Path(sd.source).name
    assert data["instance_prompt"] == "sks toy"
    assert data["license"] == "other"
    assert data["license_name"] == "that-of-the-base-model"
    assert data["widget"] == [{"text": "a sks toy", "output": {"url": "samples/00.png"}}]
    assert ("lora" in data["tags"], "lokr" in data["tags"]) == (format == "lora", format != "lora")


def test_format_that_is_a_folder_is_it_itself(sd: Base, train: Any, tmp_path: Path) -> None:
    path, _ = train(sd, SQUARE)
    folder = tmp_path / "hub"
    output = hub_output(folder, "duck", "peft")
    export_adapter(path, base=sd, format="peft", output=output)
    expected = {"README.md", "adapter_config.json", "adapter_model.safetensors", "krona.json"}
    assert names(folder) == expected
    assert ModelCard.load(folder / "README.md").data.to_dict()["library_name"] == "peft"


def test_lora_of_another_tool_has_no_trigger_that_nobody_said(sd: Base, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(kohya(sd, random_lora(sd, attention(sd))), path)
    output = hub_output(tmp_path / "hub", "mine", "kohya")
    export_adapter(path, base=sd, format="kohya", output=output)
    data = ModelCard.load(tmp_path / "hub" / "README.md").data.to_dict()
    assert "instance_prompt" not in data
    assert "lora" in data["tags"]


@pytest.mark.parametrize("stray", [".env", "notes.txt", "samples/mine.png", "hen.safetensors"])
def test_folder_with_anything_else_is_refused(tmp_path: Path, stray: str) -> None:
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).write_text("secret")
    with pytest.raises(KronaError, match=rf"{stray} is not of the export duck\.safetensors, and"):
        hub_output(tmp_path, "duck", "kohya")
