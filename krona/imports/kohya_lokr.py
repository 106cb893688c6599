"""A LoKr file in kohya's or LyCORIS' naming and a base in; Kronecker layers out.

The scale is alpha over the inner size of a factor stored as a product, and 1 where both are whole.
Source: LyCORIS' lokr.py and ComfyUI's weight adapters, which agree on it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from krona.adapter import AdapterLayer
from krona.formats.kohya import layer_name
from krona.imports.lokr import (
    Parts,
    attention_block_linears,
    by_layer,
    check_known,
    factor,
    kron_layer,
    lora_dim,
)

if TYPE_CHECKING:
    from krona.checkpoint import Base

_PREFIXES = ("lora_unet_", "lycoris_")


def reads(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file of these names is of this kind."""
    return any(name.startswith(_PREFIXES) and ".lokr_w1" in name for name in tensors)


def layers(
    tensors: Mapping[str, Tensor], base: "Base", config: Mapping[str, Any]
) -> dict[str, AdapterLayer]:
    """Path → layer. Raises: KronaError if a layer is not the base's, or has another shape."""
    linears = attention_block_linears(base.unet)
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
    """Every name that tools give a layer: kohya's, and both prefixes before diffusers' path."""
    plain = path.replace(".", "_")
    kohya = layer_name(path, base.family, base.unet.config.layers_per_block)
    return {kohya, *(prefix + plain for prefix in _PREFIXES)}


def _scale(parts: Parts) -> float:
    dim, alpha = lora_dim(parts), parts.get("alpha")
    return 1.0 if dim is None or alpha is None else alpha.item() / dim
