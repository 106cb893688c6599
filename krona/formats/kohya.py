"""An adapter in; out, one file in the naming of kohya's sd-scripts, LyCORIS, ComfyUI and A1111.

A layer is `lora_unet_<path with . as _>` with lokr_w1 = A, lokr_w2 = B or lora_down, lora_up, and
alpha. SDXL layers have the path of Stability's own code: input_blocks, middle_block, output_blocks.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor

from krona.adapter import AdapterLayer, KronLinear
from krona.adapter_file import Manifest, read_safetensors, write_safetensors
from krona.inject import Adapter

if TYPE_CHECKING:
    from krona.checkpoint import Base, Family

_BLOCK = re.compile(r"^(down|mid|up)_blocks?(?:\.(\d+))?\.attentions\.(\d+)")


def layer_name(path: str, family: "Family", layers_per_block: int) -> str:
    """Name a diffusers layer path as kohya's tools do.

    Stability's code numbers SDXL's blocks through: after conv_in, a down block is its layers and a
    downsampler, an up block is one layer more; entry 1 of each is the attention.
    """
    if family == "sdxl":
        path = _BLOCK.sub(lambda match: _stability_block(match, layers_per_block + 1), path)
    return "lora_unet_" + path.replace(".", "_")


def _stability_block(match: re.Match[str], stride: int) -> str:
    side, block, layer = match[1], int(match[2] or 0), int(match[3])
    if side == "mid":
        return "middle_block.1"
    if side == "down":
        return f"input_blocks.{stride * block + layer + 1}.1"
    return f"output_blocks.{stride * block + layer}.1"


def write(path: Path, adapter: Adapter, base: "Base", manifest: Manifest) -> None:
    """Write the adapter with its scale folded in, so that every loader applies it with 1."""
    tensors: dict[str, Tensor] = {}
    for name, layer in _named_layers(adapter, base).items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in _layer_tensors(layer).items()}
    write_safetensors(path, tensors, _metadata(tensors, base, manifest))


def loader(adapter: Adapter) -> str:
    """What deltas() reads the file with: LyCORIS where it is installed and can hold the shapes."""
    if find_spec("lycoris") and all(map(_fits_lycoris, adapter.layers.values())):
        return f"lycoris_lora {version('lycoris_lora')}"
    return "krona"


def deltas(path: Path, adapter: Adapter, base: "Base") -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's update as the file's loader applies it."""
    tensors, _ = read_safetensors(path)
    delta = _own_delta if loader(adapter) == "krona" else _lycoris_delta
    for name, (layer_path, layer) in zip(
        _named_layers(adapter, base), adapter.layers.items(), strict=True
    ):
        yield layer_path, delta(tensors, name, layer)


def _named_layers(adapter: Adapter, base: "Base") -> dict[str, AdapterLayer]:
    layers_per_block = base.unet.config.layers_per_block
    return {
        layer_name(path, base.family, layers_per_block): layer
        for path, layer in adapter.layers.items()
    }


def _layer_tensors(layer: AdapterLayer) -> dict[str, Tensor]:
    if isinstance(layer, KronLinear):
        factors = {"lokr_w1": layer.A.detach(), "lokr_w2": layer.scale * layer.B.detach()}
        alpha = max(layer.B.shape)
    else:
        factors = {
            "lora_down.weight": layer.down.detach(),
            "lora_up.weight": layer.scale * layer.up.detach(),
        }
        alpha = len(layer.down)
    return factors | {"alpha": torch.tensor(float(alpha))}


def _fits_lycoris(layer: AdapterLayer) -> bool:
    """LyCORIS derives the factors from one number f, and puts the smaller one first."""
    if not isinstance(layer, KronLinear):
        return True
    (a1, a2), (b1, b2) = layer.A.shape, layer.B.shape
    return a1 == a2 <= min(b1, b2)


def _lycoris_delta(tensors: Mapping[str, Tensor], name: str, layer: AdapterLayer) -> Tensor:
    from lycoris.modules import get_module, make_module

    algorithm, weights = get_module(tensors, name)
    module = make_module(algorithm, weights, name, layer.base)
    delta: Tensor = module.get_diff_weight()[0]
    return delta


def _own_delta(tensors: Mapping[str, Tensor], name: str, layer: AdapterLayer) -> Tensor:
    if isinstance(layer, KronLinear):
        return torch.kron(tensors[f"{name}.lokr_w1"], tensors[f"{name}.lokr_w2"])
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    return up @ down * (tensors[f"{name}.alpha"] / len(down))


def _metadata(tensors: Mapping[str, Tensor], base: "Base", manifest: Manifest) -> dict[str, str]:
    is_krona, is_v2 = manifest.kind == "krona", base.unet.config.cross_attention_dim == 1024
    if base.family == "sdxl":
        version_name, architecture = "sdxl_base_v1-0", "stable-diffusion-xl-v1-base"
    elif is_v2:
        version_name, architecture = "sd_v2", "stable-diffusion-v2-512"
    else:
        version_name, architecture = "sd_v1", "stable-diffusion-v1"
    width = str(int(max(t.item() for name, t in tensors.items() if name.endswith(".alpha"))))
    return {
        "ss_network_module": "lycoris.kohya" if is_krona else "networks.lora",
        "ss_network_args": json.dumps({"algo": "lokr", "full_matrix": "True"} if is_krona else {}),
        "ss_network_dim": width,
        "ss_network_alpha": width,
        "ss_base_model_version": version_name,
        "ss_v2": str(is_v2),
        "ss_output_name": manifest.subject,
        "ss_steps": str(manifest.steps),
        "ss_seed": str(manifest.seed),
        "ss_learning_rate": str(manifest.learning_rate),
        "sshs_model_hash": _model_hash(tensors),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": manifest.subject,
        "modelspec.trigger_phrase": f"{manifest.identifier} {manifest.class_noun}",
        "modelspec.resolution": f"{base.resolution}x{base.resolution}",
        "modelspec.prediction_type": "v" if base.prediction_type == "v_prediction" else "epsilon",
        "krona_manifest": manifest.to_json(),
    }


def _model_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the file's tensor bytes, as sd-scripts and A1111 compute it."""
    content = save({name: tensor.cpu() for name, tensor in tensors.items()})
    header_bytes = int.from_bytes(content[:8], "little")
    return hashlib.sha256(content[8 + header_bytes :]).hexdigest()
