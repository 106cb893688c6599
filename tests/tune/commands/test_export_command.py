"""`krona export` checks what it is asked before it loads a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from krona.errors import KronaError
from tune.commands.export import export


def test_place_that_cannot_be_written_is_refused_before_the_base_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_base(*_: Any) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("krona.base.checkpoint.load_base", load_base)
    path, layer = tmp_path / "lokr.safetensors", "lora_unet_mid_block_attn1_to_q"
    save_file({f"{layer}.{key}": torch.ones(1, 1) for key in ("lokr_w1", "lokr_w2")}, path)
    with pytest.raises(KronaError, match=r"lokr\.safetensors is no folder with write permission"):
        export(str(path), base="toyland", output=path / "duck.safetensors")


def test_two_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KronaError, match=r"both --output a\.safetensors and --hub-folder hub are"):
        export(None, output=Path("a.safetensors"), hub_folder=Path("hub"))


def test_hub_folder_gets_the_export_and_the_command_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_sd: Path
) -> None:
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    path, folder = tmp_path / "mine.safetensors", tmp_path / "for hub"
    pair = {"lora_down.weight": torch.ones(1, 128), "lora_up.weight": torch.ones(128, 1)}
    save_file({f"{layer}.{part}": tensor for part, tensor in pair.items()}, path)
    export(str(path), base=str(tiny_sd), hub_folder=folder, dtype="bf16")
    printed = capsys.readouterr().out
    assert f"hf upload USER/REPOSITORY '{folder}'" in printed
    assert "of a layer from rounding to bf16" in printed
    assert {entry.name for entry in folder.iterdir()} == {"mine.safetensors", "README.md"}
