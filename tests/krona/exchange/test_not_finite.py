"""NaN and infinity: refused wherever an adapter is read, with its file and layer, never written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loras import NAMINGS, attention, random_lora
from safetensors.torch import load_file, save_file
from trained import make_manifest, place, unchanged

from krona.adapter.inject import inject
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.adapter_file import METADATA_KEY, load_adapter, save_adapter
from krona.exchange.attach import attach, read_origin
from krona.exchange.export import export_adapter

SQUARE = AdapterConfig(factors=(4, 4))
NUMBERS = pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])


def spoil(path: Path, number: float, metadata: dict[str, str] | None = None) -> str:
    """Put a number into a file's second tensor, in half precision; return the tensor's name."""
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    name = sorted(tensors)[1]
    tensors[name].view(-1)[-1] = number
    save_file(tensors, path, metadata)
    return name


def assert_refused(base: Base, path: Path, file: Path, name: str) -> None:
    """Refuse when read, put on a base, and exported, naming file and tensor."""
    message = rf"{file} is of no use: '{name}' holds a number that is not finite"
    with pytest.raises(KronaError, match=message):
        read_origin(path)
    with pytest.raises(KronaError, match=message), unchanged(base):
        attach(base, path)
    output = path.parent / "out" / "a.safetensors"
    with pytest.raises(KronaError, match=message):
        export_adapter(path, base=base, format="kohya", output=output)
    assert not output.exists()


@NUMBERS
def test_kronas_own_file_is_not_read(sd: Base, train: Any, number: float) -> None:
    path, _ = train(sd, SQUARE)
    manifest = make_manifest(sd, SQUARE).to_json()
    name = spoil(path, number, {METADATA_KEY: manifest})
    assert_refused(sd, path, path, name)
    with pytest.raises(KronaError, match="is of no use"):
        load_adapter(path)


@NUMBERS
def test_adapter_is_not_written_and_the_old_file_stays(sd: Base, train: Any, number: float) -> None:
    path, _ = train(sd, SQUARE)
    old = path.read_bytes()
    adapter = inject(sd.unet, SQUARE, seed=0)
    adapter.eject()
    layer_path, layer = next(iter(adapter.layers.items()))
    layer.B.data[0, 0] = number
    with pytest.raises(KronaError, match=rf"'{layer_path}\.B' holds a number that is not finite"):
        save_adapter(path, adapter.state_dict(), make_manifest(sd, SQUARE))
    assert path.read_bytes() == old


@pytest.mark.parametrize("naming", NAMINGS)
def test_lora_is_not_read(sd: Base, tmp_path: Path, naming: str) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(NAMINGS[naming](sd, random_lora(sd, attention(sd))), path)
    assert_refused(sd, path, path, spoil(path, float("nan")))


@pytest.mark.parametrize("format", ["kohya", "lycoris", "diffusers", "peft"])
def test_lokr_of_another_tool_is_not_read(
    sd: Base, train: Any, tmp_path: Path, format: Any
) -> None:
    path, _ = train(sd, SQUARE)
    output = place(tmp_path, format)
    export_adapter(path, base=sd, format=format, output=output)
    file = output / "adapter_model.safetensors" if output.is_dir() else output
    assert_refused(sd, output, file, spoil(file, float("inf")))


def test_published_checkpoint_is_not_read(sd: Base, published: Any) -> None:
    path = published(sd)
    assert_refused(sd, path, path, spoil(path, float("nan")))


def test_peft_lora_folder_is_not_read(sd: Base, tmp_path: Path) -> None:
    q = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file = tmp_path / "adapter_model.safetensors"
    pair = {"lora_A": torch.ones(2, 128), "lora_B": torch.ones(128, 2)}
    save_file({f"{q}.{part}.weight": tensor for part, tensor in pair.items()}, file)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    name = spoil(file, float("nan"))
    with pytest.raises(KronaError, match=rf"{file} is of no use: '{name}'"):
        attach(sd, tmp_path)
