"""An adapter in; out, a folder for `peft.PeftModel.from_pretrained(unet, folder)`.

adapter_config.json and adapter_model.safetensors, `base_model.model.<path>.lokr_w1 = A` and so on.
"""

import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from krona.adapter.inject import Adapter
from krona.adapter.layers import Lora
from krona.base.checkpoint import Base
from krona.base.families import Family
from krona.exchange.formats import unet_adapter
from krona.exchange.formats.rounding import rounded
from krona.exchange.formats.squares import check_peft, kron_layers
from krona.exchange.origin import Origin
from krona.storage.tensors import write_safetensors

IS_FOLDER = True
CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model"


def check(adapter: Adapter, base: Base) -> None:
    """Refuse a shape that PEFT cannot hold."""
    check_peft(adapter, "PEFT")


def write(path: Path, adapter: Adapter, base: Base, origin: Origin, dtype: torch.dtype) -> None:
    """Write the weights with their scale folded in, and the config that makes PEFT apply it as 1.

    PEFT splits B into w2_a and w2_b, and drops lokr_w2 in silence, unless r is B's larger side.
    """
    tensors = {
        f"{PREFIX}.{layer_path}.{key}": tensor
        for layer_path, layer in adapter.layers.items()
        for key, tensor in unet_adapter.layer_tensors(layer).items()
    }
    metadata = {"format": "pt"} | unet_adapter.manifest_metadata(origin)
    write_safetensors(path / WEIGHTS, rounded(tensors, dtype), metadata)
    config = {"target_modules": list(adapter.layers), "inference_mode": True} | _settings(adapter)
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def loader(adapter: Adapter) -> str:
    """What deltas() reads the folder with."""
    return f"peft {version('peft')}" if find_spec("peft") else "krona"


def deltas(path: Path, adapter: Adapter, base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's update as PEFT applies it, and leave the UNet as before."""
    if loader(adapter) == "krona":
        yield from unet_adapter.own_deltas(path / WEIGHTS, adapter, PREFIX)
        return
    from peft import PeftModel

    try:
        PeftModel.from_pretrained(base.unet, str(path))
        yield from unet_adapter.peft_deltas(base.unet, adapter, "default")
    finally:
        base.unet.unload_lora()  # diffusers' own needs no PeftModel, which a failure leaves unmade


def usage(name: str, family: Family) -> str:
    """How it is loaded."""
    return f"""from peft import PeftModel

pipe.unet = PeftModel.from_pretrained(pipe.unet, "{name}")"""


def _settings(adapter: Adapter) -> dict[str, Any]:
    krons = kron_layers(adapter)
    if krons:
        rank = max(max(layer.B.shape) for layer in krons)
        shape = {"decompose_factor": krons[0].A.shape[0], "decompose_both": False}
        return {"peft_type": "LOKR", "r": rank, "alpha": rank} | shape
    ranks = {path: len(x.down) for path, x in adapter.layers.items() if isinstance(x, Lora)}
    rank = max(ranks.values())
    others = {f"^{re.escape(path)}": r for path, r in ranks.items() if r != rank}
    patterns = {"rank_pattern": others, "alpha_pattern": others}
    return {"peft_type": "LORA", "r": rank, "lora_alpha": rank} | patterns
