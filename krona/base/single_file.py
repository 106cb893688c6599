"""A checkpoint in one .safetensors file, as the originals were published: a path in, modules out.

Nothing is fetched: the configs of SD 1.x, 2.x and XL lie in originals/, and the vocabulary of
their tokenizers is the one that open_clip ships.
"""

import gzip
import json
import warnings
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open
from transformers import CLIPTokenizer

from krona.adapter.inject import TEXT_ENCODERS
from krona.base.quiet import unused_weights_told
from krona.errors import KronaError

ORIGINALS = Path(__file__).parent / "originals"
_CROSS_ATTENTION = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
_BY_TEXT_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


def original_config(path: Path) -> Path:
    """The folder in originals/ whose configs describe a single file, told by its text width.

    Raises: KronaError if the file is damaged or is no Stable Diffusion 1.x, 2.x or XL checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys = set(file.keys())
            attention = [key for i in (1, 4) if (key := _CROSS_ATTENTION.format(i)) in keys]
            width = file.get_slice(attention[0]).get_shape()[1] if attention else None
    except SafetensorError as error:
        raise KronaError(f"checkpoint {path} is damaged or cut short: {error}") from error
    if width not in _BY_TEXT_WIDTH:
        some = ", ".join(sorted(keys)[:2]) or "nothing"
        raise KronaError(
            f"checkpoint {path} is no Stable Diffusion 1.x, 2.x or XL checkpoint in one file: it "
            f"holds {some}. For a variant of their shape, give its diffusers folder instead"
        )
    return ORIGINALS / _BY_TEXT_WIDTH[width]


def load_single_file(path: Path, config: Path, *, is_xl: bool, dtype: torch.dtype) -> Any:
    """A diffusers pipeline of a checkpoint in one file; its autoencoder is in float32.

    Args:
        config: folder in diffusers layout whose configs and tokenizers describe the file; where a
            tokenizer has no vocabulary there, it is CLIP's.
    Raises: KronaError if the weights are damaged or do not fit the configs.
    """
    pipeline_class = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    absent = ["feature_extractor", "image_encoder" if is_xl else "safety_checker"]
    try:
        with unused_weights_told():
            pipeline = pipeline_class.from_single_file(
                str(path),
                config=str(config),
                dtype=dtype,
                local_files_only=True,
                vae=AutoencoderKL.from_single_file(
                    str(path), config=str(config), subfolder="vae", dtype=torch.float32
                ),
                **_clip_tokenizers(config),
                **dict.fromkeys(absent),
            )
    except NotImplementedError as error:  # a UNet or an autoencoder with weights on the meta device
        raise KronaError(f"checkpoint {path} lacks weights that {config.name} describes") from error
    except (OSError, LookupError, RuntimeError, ValueError, SingleFileComponentError) as error:
        raise KronaError(f"checkpoint {path} does not fit {config.name}: {error}") from error
    _check_text_encoders(path, pipeline)
    _apply_declared_schedule(path, pipeline, may_be_either=config == ORIGINALS / "sd2")
    return pipeline


def _check_text_encoders(path: Path, pipeline: Any) -> None:
    """Raise if one lacks weights: diffusers 0.42 leaves those on the meta device and goes on."""
    encoders = [pipeline.components.get(name) for name in TEXT_ENCODERS]
    for encoder in filter(None, encoders):
        missing = [name for name, tensor in encoder.state_dict().items() if tensor.is_meta]
        if missing:
            raise KronaError(
                f"checkpoint {path} lacks {missing[0]} of its {type(encoder).__name__}"
            )


def _clip_tokenizers(config: Path) -> dict[str, Any]:
    """CLIP's tokenizer for each tokenizer folder that has settings but no vocabulary."""
    settings = {
        folder.name: json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        for folder in config.glob("tokenizer*")
        if not any((folder / name).exists() for name in ("vocab.json", "tokenizer.json"))
    }
    return {name: clip_tokenizer(**values) for name, values in settings.items()}


def clip_tokenizer(*, pad_token: str, model_max_length: int) -> Any:
    """CLIP's tokenizer, built from the merges that open_clip ships.

    Source: open_clip's SimpleTokenizer: bytes, bytes ending a word, merges, two special tokens.
    """
    merges = _clip_merges()
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=model_max_length,
    )


@cache
def _clip_merges() -> list[tuple[str, ...]]:
    packed = (files("open_clip") / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    used = lines[1 : 49152 - 256 - 2 + 1]  # the file holds more than CLIP uses
    return [tuple(line.split()) for line in used]


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte, the printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def _apply_declared_schedule(path: Path, pipeline: Any, *, may_be_either: bool) -> None:
    """Follow what the file says of its own training: modelspec metadata, v_pred and ztsnr marks."""
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        declared = (file.metadata() or {}).get("modelspec.prediction_type")
    changes: dict[str, Any] = {}
    if declared == "v" or "v_pred" in keys:
        changes["prediction_type"] = "v_prediction"
    elif declared == "epsilon":
        changes["prediction_type"] = "epsilon"
    elif may_be_either:
        warnings.warn(
            f"{path} does not say what it predicts; as most 2.x checkpoints it is taken for "
            "v-prediction at 768 px. For a 512 px base, give a folder of its configs",
            stacklevel=4,
        )
    if "ztsnr" in keys:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if changes:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **changes)
