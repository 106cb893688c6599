"""An adapter in; out, one file for diffusers' `pipe.unet.load_lora_adapter(file, prefix="unet")`.

LoKr from diffusers 0.42 on: `unet.<path>.lokr_w1 = A, lokr_w2 = B`, no alpha. The loader infers the
shape of A from one number f, so A must be the same f×f on every layer. LoRA, which
`pipe.load_lora_weights(file)` loads too: `unet.<path>.lora_A.weight = down, lora_B.weight = up`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import is_peft_available
from torch import Tensor

from krona.adapter.inject import Adapter
from krona.adapter.layers import AdapterLayer, KronLinear, Lora
from krona.adapter.lora_conv import low_rank_product
from krona.base.checkpoint import Base
from krona.base.families import Family
from krona.exchange.formats.names import MANIFEST_KEY
from krona.exchange.formats.rounding import rounded
from krona.exchange.formats.squares import check_peft
from krona.exchange.origin import Origin
from krona.storage.tensors import read_safetensors, write_safetensors

_ADAPTER_NAME = "krona"


IS_FOLDER = False


def check(adapter: Adapter, base: Base) -> None:
    """Refuse a shape that diffusers cannot hold."""
    check_peft(adapter, "diffusers")


def write(path: Path, adapter: Adapter, base: Base, origin: Origin, dtype: torch.dtype) -> None:
    """Write the adapter with its scale folded in."""
    tensors = {
        f"unet.{layer_path}.{key}": tensor
        for layer_path, layer in adapter.layers.items()
        for key, tensor in layer_tensors(layer).items()
    }
    metadata = {"format": "pt"} | manifest_metadata(origin)
    write_safetensors(path, rounded(tensors, dtype), metadata)


def manifest_metadata(origin: Origin) -> dict[str, str]:
    """The manifest as an entry of a file's metadata, if there is one."""
    return {MANIFEST_KEY: origin.manifest.to_json()} if origin.manifest else {}


def loader(adapter: Adapter) -> str:
    """What deltas() reads the file with: diffusers where PEFT, which it needs, is installed."""
    return f"diffusers {diffusers.__version__}" if is_peft_available() else "krona"


def deltas(path: Path, adapter: Adapter, base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's update as the file's loader applies it, and leave the UNet as before."""
    if is_peft_available():
        return _peft_deltas(path, adapter, base)
    return own_deltas(path, adapter, "unet")


def usage(name: str, family: Family) -> str:
    """How it is loaded."""
    return f"""pipe.unet.load_lora_adapter("{name}", prefix="unet")  # diffusers >= 0.42"""


def layer_tensors(layer: AdapterLayer) -> dict[str, Tensor]:
    """A layer's tensors as PEFT names them, with the scale folded in."""
    if isinstance(layer, KronLinear):
        return {"lokr_w1": layer.A.detach(), "lokr_w2": layer.scale * layer.B.detach()}
    assert isinstance(layer, Lora)
    return {
        "lora_A.weight": layer.down.detach(),
        "lora_B.weight": layer.scale * layer.up.detach(),
    }


def _peft_deltas(path: Path, adapter: Adapter, base: Base) -> Iterator[tuple[str, Tensor]]:
    try:
        base.unet.load_lora_adapter(str(path), prefix="unet", adapter_name=_ADAPTER_NAME)
        yield from peft_deltas(base.unet, adapter, _ADAPTER_NAME)
    finally:
        base.unet.unload_lora()


def peft_deltas(network: Any, adapter: Adapter, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the update of each of the adapter's layers that PEFT has wrapped, under its name."""
    for layer_path in adapter.layers:
        layer = network.get_submodule(layer_path)
        if hasattr(layer, "get_delta_weight"):
            yield layer_path, layer.get_delta_weight(name)


def own_deltas(path: Path, adapter: Adapter, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's update, read from tensors in PEFT's naming without another tool."""
    tensors, _ = read_safetensors(path)
    for layer_path, layer in adapter.layers.items():
        name = f"{prefix}.{layer_path}"
        if isinstance(layer, KronLinear):
            A, B = (tensors[f"{name}.lokr_w{i}"].float() for i in (1, 2))
            yield layer_path, torch.kron(A, B)
        else:
            down, up = (tensors[f"{name}.lora_{part}.weight"].float() for part in "AB")
            yield layer_path, low_rank_product(up, down)
