"""A LoRA adapter in; out, one file in kohya's naming, which diffusers' pipelines load as well.

krona.adapter.low_rank makes the LoRA out of any other adapter.
"""

from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch
from diffusers.utils import is_peft_available
from torch import Tensor

from krona.adapter.inject import Adapter
from krona.base.checkpoint import Base
from krona.base.families import Family
from krona.exchange.formats import kohya
from krona.exchange.formats.unet_adapter import peft_deltas
from krona.exchange.origin import Origin

IS_FOLDER = False
_ADAPTER_NAME = "krona"


def check(adapter: Adapter, base: Base) -> None:
    """Every rank can be held."""


def write(path: Path, adapter: Adapter, base: Base, origin: Origin, dtype: torch.dtype) -> None:
    """Write down and up with alpha = rank, so that every loader applies them with 1."""
    kohya.write(path, adapter, base, origin, dtype)


def loader(adapter: Adapter) -> str:
    """What deltas() reads the file with: diffusers where PEFT, which it needs, is installed."""
    return f"diffusers {diffusers.__version__}" if is_peft_available() else kohya.loader(adapter)


def deltas(path: Path, adapter: Adapter, base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's update as the file's loader applies it, and leave the UNet as before."""
    if not is_peft_available():
        yield from kohya.deltas(path, adapter, base)
        return
    pipeline = base.pipeline()
    try:
        pipeline.load_lora_weights(str(path), adapter_name=_ADAPTER_NAME)
        yield from peft_deltas(base.network, adapter, _ADAPTER_NAME)
    finally:
        pipeline.unload_lora_weights()


def usage(name: str, family: Family) -> str:
    """How it is loaded."""
    return f'pipe.load_lora_weights("{name}")\n{kohya.usage(name, family)}'
