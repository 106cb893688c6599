"""A LoRA in any tool's naming and a base in; low-rank layers out, of linears and convolutions.

Read are kohya's and LyCORIS' names, PEFT's, and those that diffusers has written over the years.
The scale is alpha/rank where a layer has an alpha, else what a PEFT config says, else 1. LoCon's
`lora_mid` is multiplied into down.
Source: sd-scripts' lora.py, LyCORIS' locon.py, PEFT's LoraLayer, diffusers' converters.
"""

import re
from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from krona.adapter.inject import is_of_text
from krona.adapter.layers import AdapterLayer, LoraLinear
from krona.adapter.lora_conv import LoraConv
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.imports import kohya_lokr
from krona.exchange.imports.peft_config import of_part, setting

Parts = dict[str, Tensor]
_PEFT = "base_model.model."
_FACTOR = re.compile(
    r"^(?P<layer>.+)\.(?:lora_linear_layer\.|lora\.|lora_)(?P<part>down|up|mid|A|B)"
    r"(?:\.default)?\.weight$"
)
_ALPHA = re.compile(r"^(?P<layer>.+?)(?:\.lora)?\.(?P<part>alpha)$")
_OLD_NAMES = (
    (r"\.processor\.", "."),
    (r"\.self_attn\.to_(q|k|v|out)_lora\.", r".self_attn.\1_proj.lora."),
    (r"\.to_(q|k|v)_lora\.", r".to_\1.lora."),
    (r"\.to_out_lora\.", ".to_out.0.lora."),
)
_PARTS = {"A": "down", "B": "up"}
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def reads(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file of these names is of this kind."""
    return any(_FACTOR.match(_renamed(name)) for name in tensors)


def layers(
    tensors: Mapping[str, Tensor], base: Base, config: Mapping[str, Any]
) -> dict[str, AdapterLayer]:
    """Path → layer. Raises: KronaError if a layer is not the base's, or has another shape."""
    modules = {
        path: module
        for path, module in base.network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    read = _by_layer(tensors)
    paths = _paths_of(read, {name: path for path in modules for name in _names(path, base)})
    return {
        paths[name]: _layer(name, modules[paths[name]], parts, _scale(name, paths, parts, config))
        for name, parts in read.items()
    }


def _renamed(name: str) -> str:
    """A tensor's name without the attention processors that diffusers once had."""
    for pattern, new in _OLD_NAMES:
        name = re.sub(pattern, new, name)
    return name


def _by_layer(tensors: Mapping[str, Tensor]) -> dict[str, Parts]:
    """Group tensors by layer: down, up, mid, and numbers called alpha."""
    read: dict[str, Parts] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.match(_renamed(name)) or _ALPHA.match(_renamed(name))
        if match is None:
            raise KronaError(f"'{name}' is {_kind(name)}; krona reads LoRA without it")
        is_sound = tensor.numel() == 1 if match["part"] == "alpha" else tensor.ndim in (2, 4)
        if not is_sound or not tensor.numel():
            raise KronaError(f"'{name}' has the shape {tuple(tensor.shape)}, which no LoRA has")
        part = _PARTS.get(match["part"], match["part"])
        layer = read.setdefault(match["layer"], {})
        if part in layer:
            raise KronaError(f"'{name}' is there twice, under another naming too")
        layer[part] = tensor.float()
    return read


def _kind(name: str) -> str:
    if "dora_scale" in name or "magnitude_vector" in name:
        return "of a DoRA, which scales every row of the weight anew"
    return "no part of a LoRA of linear layers and convolutions"


def _names(path: str, base: Base) -> set[str]:
    """Every name that tools give a layer."""
    if is_of_text(path):
        encoder, _, inner = path.partition(".")
        inner = inner.removeprefix("text_model.")
        dotted = {f"{encoder}.{inner}", f"{encoder}.text_model.{inner}"}
    else:
        dotted = {path, f"unet.{path}", _PEFT + path}
    return kohya_lokr.names(path, base) | dotted


def _paths_of(read: Mapping[str, Parts], known: Mapping[str, str]) -> dict[str, str]:
    """The path of each of the file's layers. Raises: KronaError for a stranger or a double."""
    strangers = sorted(name for name in read if name not in known)
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise KronaError(
            f"{strangers[0]}{more} is no linear layer or convolution of this base's UNet and text "
            "encoders; give the base it was made for"
        )
    paths = {name: known[name] for name in read}
    if len(set(paths.values())) < len(paths):
        twice = next(name for name in paths if list(paths.values()).count(paths[name]) > 1)
        raise KronaError(f"the file has the layer {paths[twice]} twice, once as {twice}")
    return paths


def _scale(name: str, paths: Mapping[str, str], parts: Parts, config: Mapping[str, Any]) -> float:
    rank = len(parts.get("down", ())) or 1
    if "alpha" in parts:
        return parts["alpha"].item() / rank
    part, inner = "unet", paths[name]
    if is_of_text(inner):
        part, _, inner = inner.partition(".")
        inner = "text_model." + inner.removeprefix("text_model.")
    own = of_part(part, config)
    if not own:
        return _unsaid_scale(name)
    if str(own.get("init_lora_weights")).startswith(_MOVES_BASE):
        raise KronaError(
            f"its config says init_lora_weights={own['init_lora_weights']}, which has changed the "
            "base's weights too; have PEFT convert it to a plain LoRA when saving"
        )
    alpha = setting(inner, own, "lora_alpha")
    return alpha / (sqrt(rank) if own.get("use_rslora") else rank)


def _unsaid_scale(name: str) -> float:
    if name.startswith(_PEFT):
        raise KronaError(
            "its scale is lora_alpha/r, which only its adapter_config.json tells; give their folder"
        )
    return 1.0


def _layer(name: str, module: nn.Linear | nn.Conv2d, parts: Parts, scale: float) -> AdapterLayer:
    """The layer of scale·up·down around a module. Raises: KronaError if they do not fit it."""
    if not {"down", "up"} <= set(parts):
        raise KronaError(
            f"the file's {name} has only {', '.join(sorted(parts))}; the file is not whole"
        )
    down, up = _down(name, parts).flatten(1), scale * parts["up"].flatten(1)
    if up.shape[1] != len(down):
        raise KronaError(f"the file's {name} has ranks {len(down)} and {up.shape[1]}, not one")
    (outs, ins), got = module.weight.flatten(1).shape, (len(up), down.shape[1])
    if got != (outs, ins):
        raise KronaError(
            f"the file's {name} is {got[0]}×{got[1]}, and the base's layer is {outs}×{ins}; give "
            "the base it was made for"
        )
    if isinstance(module, nn.Conv2d):
        return LoraConv(module, down, up)
    return LoraLinear.of(module, down, up)


def _down(name: str, parts: Parts) -> Tensor:
    """down (rank, in, …), with mid (rank, rank, kh, kw) after it where there is one."""
    down, mid = parts["down"], parts.get("mid")
    if mid is None:
        return down
    rank = len(down)
    if mid.shape[:2] != (rank, rank) or mid.ndim != 4:
        raise KronaError(f"the file's {name} has a lora_mid of shape {tuple(mid.shape)}")
    return torch.einsum("rskl,si->rikl", mid, down.flatten(1))
