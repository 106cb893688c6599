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
