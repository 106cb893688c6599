"""A base in; random LoRA weights of its layers, written in the naming of each tool, out."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from trained import predict

from krona.adapter.inject import attention_linears, is_of_text
from krona.base.checkpoint import Base
from krona.diffusion.encode import embed
from krona.exchange.formats.kohya import layer_name

Weights = dict[str, tuple[Tensor, Tensor]]
PROMPTS = ["a sks toy", "a toy on the beach"]


def attention(base: Base) -> list[str]:
    """Paths of q, k, v and o in the UNet and the text encoders."""
    return list(attention_linears(base.network))


def blocks(base: Base) -> list[str]:
    """Paths of all layers of attention blocks, resnets and samplers, and of the text encoders."""
    return [
        path
        for path, module in base.network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and any(part in path for part in ("_block", ".layers."))
    ]


def everything(base: Base) -> list[str]:
    """Paths of every linear layer and convolution of the UNet."""
    kinds = nn.Linear | nn.Conv2d
    return [path for path, module in base.unet.named_modules() if isinstance(module, kinds)]


def random_lora(base: Base, paths: Iterable[str], *, ranks: tuple[int, ...] = (3,)) -> Weights:
    """Path → (down, up) of a size that shows in a prediction; ranks take turns."""
    generator = torch.Generator().manual_seed(4)
    network, weights = base.network, {}
    for i, path in enumerate(paths):
        weight, rank = network.get_parameter(f"{path}.weight"), ranks[i % len(ranks)]
        fan_in = weight[0].numel()
        down = torch.randn(rank, *weight.shape[1:], generator=generator) / fan_in**0.5
        up = 0.1 * torch.randn(len(weight), rank, generator=generator)
        weights[path] = down, up if weight.ndim == 2 else up[:, :, None, None]
    return weights


def kohya(base: Base, weights: Weights, alpha: float = 2.0) -> dict[str, Tensor]:
    tensors = {}
    for path, (down, up) in weights.items():
        name = layer_name(path, base.family, base.unet.config)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def dotted(down: str, up: str, text_down: str = "", text_up: str = "") -> Callable[..., Any]:
    """A naming by diffusers' paths with the given ends."""

    def write(base: Base, weights: Weights) -> dict[str, Tensor]:
        tensors = {}
        for path, pair in weights.items():
            ends, name = (down, up), f"unet.{path}"
            if is_of_text(path):
                encoder, _, inner = path.partition(".")
                ends = (text_down or down, text_up or up)
                name = f"{encoder}.text_model.{inner.removeprefix('text_model.')}"
            tensors |= {name + end: tensor for end, tensor in zip(ends, pair, strict=True)}
        return tensors

    return write


def processors(base: Base, weights: Weights) -> dict[str, Tensor]:
    """What diffusers wrote before 0.21: attention processors, without their text encoders."""
    tensors = {}
    for path, pair in weights.items():
        block, _, projection = path.rpartition(".to_")
        stem = f"unet.{block}.processor.to_{projection.removesuffix('.0')}_lora"
        tensors |= {f"{stem}.{e}.weight": t for e, t in zip(("down", "up"), pair, strict=True)}
    return tensors


NAMINGS: dict[str, Callable[[Base, Weights], dict[str, Tensor]]] = {
    "kohya": kohya,
    "peft": dotted(".lora_A.weight", ".lora_B.weight"),
    "diffusers": dotted(
        ".lora.down.weight",
        ".lora.up.weight",
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
    ),
}


def copied(base: Base) -> Base:
    """The base with modules of its own, for a tool to change."""
    encoders = tuple(copy.deepcopy(encoder) for encoder in base.text_encoders)
    return replace(base, unet=copy.deepcopy(base.unet), text_encoders=encoders)


def outputs(base: Base) -> list[Tensor]:
    """What the UNet and the text encoders make of fixed inputs."""
    return [predict(base.unet), *embed(base, PROMPTS).tensors().values()]
