"""An adapter in; out, one file that LyCORIS puts on a diffusers UNet by diffusers' own paths.

A layer is `lycoris_<path with . as _>` with the tensors of the kohya format.
"""

from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from krona.adapter.inject import Adapter
from krona.base.checkpoint import Base
from krona.base.families import Family
from krona.exchange.formats.kohya import own_delta, write_named
from krona.exchange.formats.squares import check_lycoris
from krona.exchange.origin import Origin
from krona.storage.tensors import read_safetensors

IS_FOLDER = False


def check(adapter: Adapter, base: Base) -> None:
    """Refuse a shape that LyCORIS cannot hold."""
    check_lycoris(adapter)


def write(path: Path, adapter: Adapter, base: Base, origin: Origin, dtype: torch.dtype) -> None:
    """Write the adapter with its scale folded in."""
    layers = {_name(layer_path): layer for layer_path, layer in adapter.layers.items()}
    write_named(path, layers, base, origin, dtype)


def loader(adapter: Adapter) -> str:
    """What deltas() reads the file with."""
    return f"lycoris_lora {version('lycoris_lora')}" if find_spec("lycoris") else "krona"


def deltas(path: Path, adapter: Adapter, base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's update as LyCORIS applies it; the UNet is left alone."""
    if loader(adapter) == "krona":
        tensors, _ = read_safetensors(path)
        for layer_path, layer in adapter.layers.items():
            yield layer_path, own_delta(tensors, _name(layer_path), layer)
        return
    from lycoris import create_lycoris_from_weights

    network, _ = create_lycoris_from_weights(1.0, str(path), base.unet)
    modules = {module.lora_name: module for module in network.loras}
    for layer_path in adapter.layers:
        if module := modules.get(_name(layer_path)):
            yield layer_path, module.get_diff_weight()[0]


def usage(name: str, family: Family) -> str:
    """How it is loaded."""
    return f"""from lycoris import create_lycoris_from_weights

network, _ = create_lycoris_from_weights(1.0, "{name}", pipe.unet)
network.apply_to()"""


def _name(layer_path: str) -> str:
    return "lycoris_" + layer_path.replace(".", "_")
