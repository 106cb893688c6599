"""An adapter in; out, one file for diffusers' `pipe.unet.load_lora_adapter(file, prefix="unet")`.

LoKr from diffusers 0.42 on: `unet.<path>.lokr_w1 = A, lokr_w2 = B`, no alpha. The loader infers the
shape of A from one number f, so A must be the same f×f on every layer. LoRA, which
`pipe.load_lora_weights(file)` loads too: `unet.<path>.lora_A.weight = down, lora_B.weight = up`.
"""

from collections.abc import Iterator
from math import log
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch
from diffusers.utils import is_peft_available
from torch import Tensor

from krona.adapter import AdapterLayer, KronLinear
from krona.adapter_file import Manifest, read_safetensors, write_safetensors
from krona.errors import KronaError
from krona.inject import Adapter
from krona.kron import valid_factors

if TYPE_CHECKING:
    from krona.checkpoint import Base

_ADAPTER_NAME = "krona"


def write(path: Path, adapter: Adapter, base: "Base", manifest: Manifest) -> None:
    """Write the adapter with its scale folded in, or refuse a shape that diffusers cannot hold."""
    _check_fits(adapter)
    tensors = {
        f"unet.{layer_path}.{key}": tensor
        for layer_path, layer in adapter.layers.items()
        for key, tensor in _layer_tensors(layer).items()
    }
    write_safetensors(path, tensors, {"format": "pt", "krona_manifest": manifest.to_json()})


def loader(adapter: Adapter) -> str:
    """What deltas() reads the file with: diffusers where PEFT, which it needs, is installed."""
    return f"diffusers {diffusers.__version__}" if is_peft_available() else "krona"


def deltas(path: Path, adapter: Adapter, base: "Base") -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's update as the file's loader applies it, and leave the UNet as before."""
    return _peft_deltas(path, adapter, base) if is_peft_available() else _own_deltas(path, adapter)


def _check_fits(adapter: Adapter) -> None:
    layers = [layer for layer in adapter.layers.values() if isinstance(layer, KronLinear)]
    shapes = sorted({(layer.A.shape[0], layer.A.shape[1]) for layer in layers})
    if not layers or (len(shapes) == 1 and shapes[0][0] == shapes[0][1]):
        return
    valid = valid_factors((layer.base.out_features, layer.base.in_features) for layer in layers)
    mean_log = sum(log(a1 * a2) for a1, a2 in shapes) / len(shapes)
    f = min((a1 for a1, a2 in valid if a1 == a2), key=lambda f: abs(2 * log(f) - mean_log))
    raise KronaError(
        f"diffusers loads one square factor for all layers, and this adapter has "
        f"{', '.join(map(str, shapes))}; the nearest that fits is ({f}, {f}). "
        "The kohya and merged formats hold the adapter as it is"
    )


def _layer_tensors(layer: AdapterLayer) -> dict[str, Tensor]:
    if isinstance(layer, KronLinear):
        return {"lokr_w1": layer.A.detach(), "lokr_w2": layer.scale * layer.B.detach()}
    return {
        "lora_A.weight": layer.down.detach(),
        "lora_B.weight": layer.scale * layer.up.detach(),
    }


def _peft_deltas(path: Path, adapter: Adapter, base: "Base") -> Iterator[tuple[str, Tensor]]:
    base.unet.load_lora_adapter(str(path), prefix="unet", adapter_name=_ADAPTER_NAME)
    try:
        for layer_path in adapter.layers:
            layer = base.unet.get_submodule(layer_path)
            yield layer_path, layer.get_delta_weight(_ADAPTER_NAME)
    finally:
        base.unet.unload_lora()


def _own_deltas(path: Path, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    tensors, _ = read_safetensors(path)
    for layer_path, layer in adapter.layers.items():
        name = f"unet.{layer_path}"
        if isinstance(layer, KronLinear):
            yield layer_path, torch.kron(tensors[f"{name}.lokr_w1"], tensors[f"{name}.lokr_w2"])
        else:
            yield layer_path, tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
