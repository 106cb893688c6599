"""A LoKr in PEFT's naming and a base in; Kronecker layers out.

A folder has alpha/r in its config. A bare file for diffusers (`unet.<path>.lokr_w1`) has it folded
into whole factors; any other without a config is refused, since its scale is unknown.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from krona.adapter.layers import AdapterLayer
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.imports import lokr
from krona.exchange.imports.peft_config import of_part, setting

_PEFT = "base_model.model."
_PREFIXES = (_PEFT, "unet.")


def reads(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file of these names is of this kind."""
    return any(name.startswith(_PREFIXES) and ".lokr_w1" in name for name in tensors)


def layers(
    tensors: Mapping[str, Tensor], base: Base, config: Mapping[str, Any]
) -> dict[str, AdapterLayer]:
    """Path → layer. Raises: KronaError if a layer is not the base's, or has another shape."""
    linears, config = lokr.readable_linears(base.unet), of_part("unet", config)
    named = lokr.by_layer(tensors)
    if not config and not all(_is_folded(name, parts) for name, parts in named.items()):
        raise KronaError(
            "its scale is alpha/r, which only its adapter_config.json tells; give their folder"
        )
    read = {_path(name): parts for name, parts in named.items()}
    lokr.check_known(read, linears)
    return {
        path: lokr.kron_layer(path, linears[path], parts, _scale(path, config))
        for path, parts in read.items()
    }


def _is_folded(name: str, parts: lokr.Parts) -> bool:
    """Whether a layer of a bare file is applied with the scale 1."""
    return not name.startswith(_PEFT) and lokr.lora_dim(parts) is None and "alpha" not in parts


def _path(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _scale(path: str, config: Mapping[str, Any]) -> float:
    if not config:
        return 1.0
    rank = setting(path, config, "r")
    if not rank > 0:
        raise KronaError(f"the config's r={rank:g} is not positive")
    return setting(path, config, "alpha") / rank
