"""An adapter in; out, the whole pipeline as a diffusers folder with W' = W + scale·A ⊗ B."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
from torch import Tensor

from krona.adapter_file import Manifest
from krona.inject import Adapter

if TYPE_CHECKING:
    from krona.checkpoint import Base


def write(path: Path, adapter: Adapter, base: "Base", manifest: Manifest) -> None:
    """Save the base's pipeline with merged weights; the base keeps its own."""
    frozen = {layer_path: layer.base.weight for layer_path, layer in adapter.layers.items()}
    adapter.merge()
    try:
        base.pipeline().save_pretrained(path)
    finally:
        for layer_path, layer in adapter.layers.items():
            layer.base.weight = frozen[layer_path]
    (path / "krona.json").write_text(manifest.to_json())


def loader(adapter: Adapter) -> str:
    """What deltas() reads the folder with."""
    return f"diffusers {diffusers.__version__}"


def deltas(path: Path, adapter: Adapter, base: "Base") -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's merged weight less the base's."""
    unet = type(base.unet).from_pretrained(path, subfolder="unet", local_files_only=True)
    for layer_path, layer in adapter.layers.items():
        merged = unet.get_submodule(layer_path).weight
        yield layer_path, merged.detach().to(layer.base.weight.device) - layer.base.weight
