"""An adapter in; out, the whole pipeline as a diffusers folder with W' = W + scale·A ⊗ B."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
from torch import Tensor

from krona.adapter.inject import TEXT_ENCODERS, Adapter, one_root
from krona.base.checkpoint import Base
from krona.base.families import Family
from krona.exchange.formats.rounding import rounded_module
from krona.exchange.origin import Origin

IS_FOLDER = True


def check(adapter: Adapter, base: Base) -> None:
    """Every update can be held."""


def write(path: Path, adapter: Adapter, base: Base, origin: Origin, dtype: torch.dtype) -> None:
    """Save the base's pipeline with merged weights; the base keeps its own.

    The autoencoder is not rounded: SDXL's is at its limits in half precision.
    """
    pipeline = base.pipeline()
    with merged(adapter):
        for name in ("unet", *TEXT_ENCODERS[: len(base.text_encoders)]):
            setattr(pipeline, name, rounded_module(name, getattr(pipeline, name), dtype))
        pipeline.save_pretrained(path)


@contextmanager
def merged(adapter: Adapter) -> Iterator[None]:
    """Have the update in the base's weights for the length of a block."""
    frozen = {layer_path: layer.base.weight for layer_path, layer in adapter.layers.items()}
    try:
        adapter.merge()
        yield
    finally:
        for layer_path, layer in adapter.layers.items():
            layer.base.weight = frozen[layer_path]


def loader(adapter: Adapter) -> str:
    """What deltas() reads the folder with."""
    return f"diffusers {diffusers.__version__}"


def deltas(path: Path, adapter: Adapter, base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's merged weight less the base's."""
    parts = {"unet": base.unet}
    if adapter.adapts_text:
        parts |= dict(zip(TEXT_ENCODERS, base.text_encoders, strict=False))
    unet, *text_encoders = (
        type(part).from_pretrained(path, subfolder=name, local_files_only=True)
        for name, part in parts.items()
    )
    network = one_root(unet, text_encoders)
    for layer_path, layer in adapter.layers.items():
        weight = network.get_parameter(f"{layer_path}.weight")
        yield layer_path, weight.detach().to(layer.base.weight.device) - layer.base.weight


def usage(name: str, family: Family) -> str:
    """How it is loaded."""
    return f"""from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{name}")"""
