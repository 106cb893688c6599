"""A LoKr file in kohya's or LyCORIS' naming and a base in; Kronecker layers out.

The scale is alpha over the inner size of a factor stored as a product, and 1 where both are whole.
Source: LyCORIS' lokr.py and ComfyUI's weight adapters, which agree on it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from krona.adapter.inject import is_of_text
from krona.adapter.layers import AdapterLayer
from krona.exchange.formats.kohya import layer_name
from krona.exchange.imports.lokr import (
    Parts,
    by_layer,
    check_known,
    factor,
    kron_layer,
    lora_dim,
    readable_linears,
)

if TYPE_CHECKING:
    from krona.base.checkpoint import Base

_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_")


def reads(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file of these names is of this kind."""
    return any(name.startswith(_PREFIXES) and ".lokr_w1" in name for name in tensors)


def layers(
    tensors: Mapping[str, Tensor], base: "Base", config: Mapping[str, Any]
) -> dict[str, AdapterLayer]:
    """Path → layer. Raises: KronaError if a layer is not the base's, or has another shape."""
    linears = readable_linears(base.network)
    paths = {name: path for path in linears for name in _names(path, base)}
    read = by_layer(tensors)
    check_known(read, paths)
    return {
        paths[name]: kron_layer(
            name,
            linears[paths[name]],
            factor(name, parts, 1),
            _scale(parts) * factor(name, parts, 2),
        )
        for name, parts in read.items()
    }


def _names(path: str, base: "Base") -> set[str]:
    """Every name that tools give a layer: kohya's, and for a UNet two with diffusers' path."""
    kohya = layer_name(path, base.family, base.unet.config.layers_per_block)
    if is_of_text(path):
        return {kohya}
    return {kohya, *(prefix + path.replace(".", "_") for prefix in ("lora_unet_", "lycoris_"))}


def _scale(parts: Parts) -> float:
    dim, alpha = lora_dim(parts), parts.get("alpha")
    return 1.0 if dim is None or alpha is None else alpha.item() / dim
