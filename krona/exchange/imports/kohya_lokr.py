"""A LoKr file in kohya's or LyCORIS' naming and a base in; Kronecker layers out.

The scale is alpha over the inner size of a factor stored as a product, and 1 where both are whole.
Source: LyCORIS' lokr.py and ComfyUI's weight adapters, which agree on it.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from krona.adapter.inject import is_of_text
from krona.adapter.layers import AdapterLayer
from krona.base.checkpoint import Base
from krona.exchange.formats.kohya import layer_name
from krona.exchange.imports import lokr

_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_")


def reads(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file of these names is of this kind."""
    return any(name.startswith(_PREFIXES) and ".lokr_w1" in name for name in tensors)


def layers(
    tensors: Mapping[str, Tensor], base: Base, config: Mapping[str, Any]
) -> dict[str, AdapterLayer]:
    """Path → layer. Raises: KronaError if a layer is not the base's, or has another shape."""
    linears = lokr.readable_linears(base.network)
    paths = {name: path for path in linears for name in names(path, base)}
    read = lokr.by_layer(tensors)
    lokr.check_known(read, paths)
    return {
        paths[name]: lokr.kron_layer(name, linears[paths[name]], parts, _scale(parts))
        for name, parts in read.items()
    }


def names(path: str, base: Base) -> set[str]:
    """Every name without dots of a layer: kohya's, and for a UNet two with diffusers' path."""
    kohya = layer_name(path, base.family, base.unet.config)
    if is_of_text(path):
        return {kohya}
    return {kohya, *(prefix + path.replace(".", "_") for prefix in ("lora_unet_", "lycoris_"))}


def _scale(parts: lokr.Parts) -> float:
    dim, alpha = lokr.lora_dim(parts), parts.get("alpha")
    return 1.0 if dim is None or alpha is None else alpha.item() / dim
