"""A checkpoint of DiffuseKronA's published code and a base in; its layers, to the letter, out.

`<path>.processor.to_q_lora.down.weight` is Aᵀ (a2, a1), `up.weight` is B (b1, b2), and what that
code computes from them is no A ⊗ B: see PublishedKronLinear. Diffusers gave its LoRA the same names
once, so a file whose factors are a LoRA's is read as one.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from krona.adapter.inject import attention_linears
from krona.adapter.layers import AdapterLayer, PublishedKronLinear
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.imports import lora
from krona.exchange.imports.lokr import check_known

_NAME = re.compile(
    r"^(?:unet\.)?(?P<attention>.+\.attn[12])\.processor\.to_(?P<projection>q|k|v|out)_lora"
    r"\.(?P<part>down|up)\.weight$"
)


def reads(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file of these names is of this kind."""
    return bool(tensors) and all(_NAME.match(name) for name in tensors)


def layers(
    tensors: Mapping[str, Tensor], base: Base, config: Mapping[str, Any]
) -> dict[str, AdapterLayer]:
    """Path → layer. Raises: KronaError if a layer is not the base's, or has another shape."""
    linears = attention_linears(base.unet)
    read: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, part = _split(name)
        read.setdefault(path, {})[part] = tensor
    check_known(read, linears)
    if all(_is_lora(parts, linears[path].weight) for path, parts in read.items()):
        return lora.layers(tensors, base, config)
    built: dict[str, AdapterLayer] = {}
    for path, parts in read.items():
        if set(parts) != {"down", "up"}:
            raise KronaError(f"{path} has only {', '.join(parts)}; the file is not whole")
        down, up, linear = parts["down"], parts["up"], linears[path]
        _check_shape(path, down, up, (linear.out_features, linear.in_features))
        built[path] = PublishedKronLinear(linear, down.T, up)
    return built


def _is_lora(parts: Mapping[str, Tensor], weight: Tensor) -> bool:
    """Whether up·down has the weight's shape; of a Kronecker product's parts it never has."""
    down, up = parts.get("down"), parts.get("up")
    if down is None or up is None or down.ndim != 2 or up.ndim != 2:
        return False
    return (len(up), down.shape[1]) == weight.shape and len(down) == up.shape[1]


def _split(name: str) -> tuple[str, str]:
    """The path of the linear that a tensor adapts, and which of the two factors it is."""
    match = _NAME.match(name)
    assert match is not None
    end = "out.0" if match["projection"] == "out" else match["projection"]
    return f"{match['attention']}.to_{end}", match["part"]


def _check_shape(path: str, down: Tensor, up: Tensor, expected: tuple[int, int]) -> None:
    if down.ndim != 2 or up.ndim != 2:
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise KronaError(f"the file's {path} has factors of shape {shapes}, which are no matrices")
    (a2, a1), (b1, b2) = down.shape, up.shape
    if (a1 * b1, a2 * b2) == expected:
        return
    if (b1, a1) == expected and a2 == b2:
        raise KronaError(f"{path} is a LoRA of rank {b2}, and other layers of the file are none")
    raise KronaError(
        f"the file's {path} is {a1 * b1}×{a2 * b2}, and the base's layer is "
        f"{expected[0]}×{expected[1]}; give the base it was made for"
    )
