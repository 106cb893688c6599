"""An adapter in; out, the merged checkpoint in one file under its original names (original.py).

What the file cannot carry are the tokenizers and the configs: who loads it takes those of SD 1.x,
2.x or XL, so a base of other shapes needs its own folder as `config` beside the file.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from krona.adapter.inject import TEXT_ENCODERS, Adapter, one_root
from krona.base.checkpoint import Base
from krona.base.families import Family
from krona.base.single_file import load_single_file
from krona.errors import KronaError
from krona.exchange.formats.merged import merged
from krona.exchange.formats.names import MANIFEST_KEY
from krona.exchange.formats.original import clip_state, open_clip_state, unet_state, vae_state
from krona.exchange.formats.rounding import rounded
from krona.exchange.origin import Origin

IS_FOLDER = False
_BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
_VAE = "first_stage_model."
_OPEN_CLIP_WIDTH = 1024  # of SD 2's text encoder


def check(adapter: Adapter, base: Base) -> None:
    """Refuse a base whose parts have no original names."""
    if odd := odd_parts(base.unet, base.vae):
        raise KronaError(
            f"a single file holds checkpoints built as SD 1.x, 2.x or XL are, and {base.source} "
            f"has {', '.join(odd)}; the merged format, a folder, holds it"
        )


def odd_parts(unet: Any, vae: Any) -> list[str]:
    """What of a base has no original names."""
    config = unet.config
    odd = sorted({*config.down_block_types, *config.up_block_types} - _BLOCKS)
    if type(vae).__name__ != "AutoencoderKL":
        odd.append(type(vae).__name__)
    if not isinstance(config.layers_per_block, int):
        odd.append(f"layers_per_block={config.layers_per_block}")
    return odd


def write(path: Path, adapter: Adapter, base: Base, origin: Origin, dtype: torch.dtype) -> None:
    """Save the base's weights, merged, in one file; the base keeps its own."""
    with merged(adapter):
        tensors = {
            name: t.detach().cpu().contiguous() for name, t in original_tensors(base, dtype).items()
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, _metadata(base, origin))


def loader(adapter: Adapter) -> str:
    """What deltas() reads the file with."""
    return f"diffusers {diffusers.__version__}"


def deltas(path: Path, adapter: Adapter, base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's merged weight less the base's.

    Raises: KronaError if a weight that the adapter does not touch reads back otherwise.
    """
    with TemporaryDirectory() as folder:
        _save_configs(base, Path(folder))
        pipeline = load_single_file(
            path, Path(folder), is_xl=base.family == "sdxl", dtype=torch.float32
        )
    got, was, dtype = _modules(pipeline), _modules(base.pipeline()), _dtype_of(path)
    adapted = {f"{layer_path}.weight" for layer_path in adapter.layers}
    for name, module in was.items():
        theirs = got[name].state_dict()
        for key, value in module.state_dict().items():
            is_adapted = (key if name == "unet" else f"{name}.{key}") in adapted
            expected = value.cpu() if name == "vae" else value.cpu().to(dtype).to(value.dtype)
            if not is_adapted and not torch.equal(theirs[key], expected):
                raise KronaError(f"the merged-file export loads back wrong: {name} {key} differs")
    network = one_root(pipeline.unet, [got[name] for name in TEXT_ENCODERS if name in got])
    for layer_path, layer in adapter.layers.items():
        weight = network.get_parameter(f"{layer_path}.weight")
        yield layer_path, weight.detach().to(layer.base.weight.device) - layer.base.weight


def usage(name: str, family: Family) -> str:
    """How it is loaded."""
    pipeline = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    return f"""# ComfyUI: models/checkpoints/{name}; A1111: models/Stable-diffusion/{name}
from diffusers import {pipeline}

pipe = {pipeline}.from_single_file("{name}")"""


def original_tensors(base: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights under their original names and prefixes; rounded, but for the autoencoder's."""
    prefixes = ("conditioner.embedders.0.", "conditioner.embedders.1.")
    if base.family == "sd":
        prefixes = ("cond_stage_model.", "")
    state = _prefixed("model.diffusion_model.", unet_state(base.unet))
    for prefix, encoder in zip(prefixes, base.text_encoders, strict=False):
        is_open_clip = prefix.endswith("1.") or encoder.config.hidden_size == _OPEN_CLIP_WIDTH
        if is_open_clip:
            state |= _prefixed(f"{prefix}model.", open_clip_state(encoder))
        else:
            state |= _prefixed(f"{prefix}transformer.", clip_state(encoder))
    state = rounded(state, dtype) | _prefixed(_VAE, vae_state(base.vae))
    return state | _schedule_marks(base)


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def _schedule_marks(base: Base) -> dict[str, Tensor]:
    """Empty tensors by which ComfyUI knows an XL checkpoint's schedule."""
    if base.family != "sdxl" or base.prediction_type != "v_prediction":
        return {}
    is_zero_snr = base.scheduler.config.get("rescale_betas_zero_snr")
    return {name: torch.zeros(0) for name in ("v_pred", *(["ztsnr"] if is_zero_snr else []))}


def _dtype_of(path: Path) -> torch.dtype:
    """The precision that a file's UNet is in."""
    with safe_open(path, framework="pt") as file:
        dtype: torch.dtype = file.get_tensor("model.diffusion_model.out.2.bias").dtype
    return dtype


def _metadata(base: Base, origin: Origin) -> dict[str, str]:
    is_v = base.prediction_type == "v_prediction"
    said = {"modelspec.trigger_phrase": origin.trigger_phrase} if origin.trigger_phrase else {}
    if origin.manifest:
        said[MANIFEST_KEY] = origin.manifest.to_json()
    return said | {
        "format": "pt",
        "modelspec.title": origin.name,
        "modelspec.prediction_type": "v" if is_v else "epsilon",
    }


def _save_configs(base: Base, folder: Path) -> None:
    """The base's configs and tokenizers in diffusers layout, without weights."""
    pipeline = base.pipeline()
    pipeline.save_config(folder)
    for name in ("unet", "vae", "scheduler"):
        getattr(pipeline, name).save_config(folder / name)
    for name in ("", "_2")[: len(base.text_encoders)]:
        getattr(pipeline, f"text_encoder{name}").config.save_pretrained(
            folder / f"text_encoder{name}"
        )
        getattr(pipeline, f"tokenizer{name}").save_pretrained(folder / f"tokenizer{name}")


def _modules(pipeline: Any) -> dict[str, torch.nn.Module]:
    return {k: m for k, m in pipeline.components.items() if isinstance(m, torch.nn.Module)}
