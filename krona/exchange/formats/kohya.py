"""An adapter in; out, one file in the naming of kohya's sd-scripts, LyCORIS, ComfyUI and A1111.

A layer is `lora_unet_<path with . as _>`, in a text encoder `lora_te_…` (SDXL: te1, te2), with
lokr_w1 = A, lokr_w2 = B or lora_down, lora_up, and alpha. SDXL's UNet layers have the path of
Stability's own code: input_blocks, middle_block, output_blocks.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from krona.adapter.inject import TEXT_ENCODERS, Adapter, is_of_text
from krona.adapter.layers import AdapterLayer, KronLinear, Lora
from krona.adapter.lora_conv import low_rank_product
from krona.base.checkpoint import Base
from krona.base.families import Family
from krona.exchange.formats.names import MANIFEST_KEY
from krona.exchange.formats.original import unet_name
from krona.exchange.formats.rounding import rounded
from krona.exchange.formats.squares import kron_pairs, lycoris_holds
from krona.exchange.origin import Origin
from krona.storage.tensors import read_safetensors, write_safetensors

IS_FOLDER = False
_SD2_TEXT_WIDTH = 1024


def layer_name(path: str, family: Family, config: Any) -> str:
    """Name a diffusers layer path as kohya's tools do; config is the UNet's."""
    if is_of_text(path):
        encoder, _, inner = path.partition(".")
        number = str(1 + TEXT_ENCODERS.index(encoder)) if family == "sdxl" else ""
        # transformers 5 has the parts of a CLIPTextModel without their old first name
        inner = inner.removeprefix("text_model.")
        parent = "" if inner == "text_projection" else "text_model_"
        return f"lora_te{number}_{parent}" + inner.replace(".", "_")
    if family == "sdxl":
        path = unet_name(path, config)
    return "lora_unet_" + path.replace(".", "_")


def check(adapter: Adapter, base: Base) -> None:
    """Every factorization can be held."""


def write(path: Path, adapter: Adapter, base: Base, origin: Origin, dtype: torch.dtype) -> None:
    """Write the adapter with its scale folded in, so that every loader applies it with 1."""
    write_named(path, _named_layers(adapter, base), base, origin, dtype)


def write_named(
    path: Path,
    layers: Mapping[str, AdapterLayer],
    base: Base,
    origin: Origin,
    dtype: torch.dtype,
) -> None:
    """Write layers under the given names, with the metadata of kohya's tools."""
    ranks = [len(layer.down) for layer in layers.values() if isinstance(layer, Lora)]
    lora_alpha = max(ranks, default=1)
    tensors = {
        f"{name}.{key}": tensor
        for name, layer in layers.items()
        for key, tensor in _layer_tensors(layer, lora_alpha).items()
    }
    tensors = rounded(tensors, dtype)
    write_safetensors(path, tensors, _metadata(layers.values(), tensors, base, origin))


def loader(adapter: Adapter) -> str:
    """What deltas() reads the file with: LyCORIS where it is installed and can hold the shapes."""
    if find_spec("lycoris") and lycoris_holds(kron_pairs(adapter)):
        return f"lycoris_lora {version('lycoris_lora')}"
    return "krona"


def deltas(path: Path, adapter: Adapter, base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's update as the file's loader applies it."""
    tensors, _ = read_safetensors(path)
    delta = own_delta if loader(adapter) == "krona" else _lycoris_delta
    for name, (layer_path, layer) in zip(
        _named_layers(adapter, base), adapter.layers.items(), strict=True
    ):
        yield layer_path, delta(tensors, name, layer)


def _named_layers(adapter: Adapter, base: Base) -> dict[str, AdapterLayer]:
    return {
        layer_name(path, base.family, base.unet.config): layer
        for path, layer in adapter.layers.items()
    }


def _layer_tensors(layer: AdapterLayer, lora_alpha: int) -> dict[str, Tensor]:
    """A layer's tensors, which every loader applies with the scale alpha/rank, or 1 for LoKr.

    All LoRA layers get one alpha: diffusers 0.42 does not find the alphas of single layers again.
    """
    if isinstance(layer, KronLinear):
        factors = {"lokr_w1": layer.A.detach(), "lokr_w2": layer.scale * layer.B.detach()}
        alpha = max(layer.B.shape)
    else:
        assert isinstance(layer, Lora)
        alpha = lora_alpha
        up = layer.scale * len(layer.down) / alpha * layer.up.detach()
        factors = {"lora_down.weight": layer.down.detach(), "lora_up.weight": up}
    return factors | {"alpha": torch.tensor(float(alpha))}


def _lycoris_delta(tensors: Mapping[str, Tensor], name: str, layer: AdapterLayer) -> Tensor:
    from lycoris.modules import get_module, make_module

    algorithm, weights = get_module(tensors, name)
    module = make_module(algorithm, weights, name, layer.base)
    delta: Tensor = module.get_diff_weight()[0]
    return delta


def own_delta(tensors: Mapping[str, Tensor], name: str, layer: AdapterLayer) -> Tensor:
    """A layer's update, read from its tensors without another tool."""
    if isinstance(layer, KronLinear):
        return torch.kron(tensors[f"{name}.lokr_w1"].float(), tensors[f"{name}.lokr_w2"].float())
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    return low_rank_product(up.float(), down.float()) * (tensors[f"{name}.alpha"] / len(down))


def usage(name: str, family: Family) -> str:
    """Where its tools look for it."""
    return f"# ComfyUI: models/loras/{name}\n# A1111: models/Lora/{name}"


def _metadata(
    layers: Iterable[AdapterLayer], tensors: Mapping[str, Tensor], base: Base, origin: Origin
) -> dict[str, str]:
    is_lokr = any(isinstance(layer, KronLinear) for layer in layers)
    version_name, architecture = _architecture(base)
    width = str(int(max(t.item() for name, t in tensors.items() if name.endswith(".alpha"))))
    return {
        "ss_network_module": "lycoris.kohya" if is_lokr else "networks.lora",
        "ss_network_args": json.dumps({"algo": "lokr", "full_matrix": "True"} if is_lokr else {}),
        "ss_network_dim": width,
        "ss_network_alpha": width,
        "ss_base_model_version": version_name,
        "ss_v2": str(version_name.startswith("sd_v2")),
        "ss_output_name": origin.name,
        "sshs_model_hash": _model_hash(tensors),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": origin.name,
        "modelspec.resolution": f"{base.resolution}x{base.resolution}",
        "modelspec.prediction_type": "v" if base.prediction_type == "v_prediction" else "epsilon",
    } | _training_metadata(origin)


def _architecture(base: Base) -> tuple[str, str]:
    """kohya's name of the base's version, and modelspec's of its architecture.

    Source: sd-scripts, get_model_version_str_for_sd1_sd2 and sai_model_spec.
    """
    if base.family == "sdxl":
        return "sdxl_base_v1-0", "stable-diffusion-xl-v1-base"
    is_v = base.prediction_type == "v_prediction"
    suffix = "_v" if is_v else ""
    if base.unet.config.cross_attention_dim == _SD2_TEXT_WIDTH:
        return f"sd_v2{suffix}", f"stable-diffusion-v2-{'768-v' if is_v else '512'}"
    return f"sd_v1{suffix}", "stable-diffusion-v1"


def _training_metadata(origin: Origin) -> dict[str, str]:
    """What the adapter's file says of its training, as far as it says it."""
    said = {"modelspec.trigger_phrase": origin.trigger_phrase} if origin.trigger_phrase else {}
    if origin.manifest is None:
        return said
    manifest = origin.manifest
    return said | {
        "ss_steps": str(manifest.steps),
        "ss_seed": str(manifest.seed),
        "ss_learning_rate": str(manifest.learning_rate),
        MANIFEST_KEY: manifest.to_json(),
    }


def _model_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the file's tensor bytes, as sd-scripts and A1111 compute it."""
    content = save({name: tensor.cpu() for name, tensor in tensors.items()})
    header_bytes = int.from_bytes(content[:8], "little")
    return hashlib.sha256(content[8 + header_bytes :]).hexdigest()
