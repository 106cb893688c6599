"""A checkpoint in one .safetensors file, as the originals were published: a path in, modules out.

Nothing is fetched: the configs are given or ship with krona (original_config.py), and the
vocabulary of their tokenizers is the one that open_clip ships.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
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
from transformers import CLIPTokenizer

from krona.adapter.inject import TEXT_ENCODERS
from krona.base.quiet import unused_weights_told
from krona.errors import KronaError
from krona.storage.header import read_header


def load_single_file(
    path: Path,
    config: Path,
    *,
    is_xl: bool,
    dtype: torch.dtype,
    vae: Any = None,
    prediction_type: str | None = None,
) -> Any:
    """A diffusers pipeline of a checkpoint in one file; its autoencoder is in float32.

    Args:
        config: folder in diffusers layout whose configs and tokenizers describe the file; where a
            tokenizer has no vocabulary there, it is CLIP's.
        vae: the autoencoder; the file's own if not given.
        prediction_type: instead of what the config's scheduler says.
    Raises: KronaError if the weights are damaged or do not fit the configs.
    """
    pipeline_class = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    absent = ["feature_extractor", "image_encoder" if is_xl else "safety_checker"]
    with _misfits_told(path, config), unused_weights_told():
        pipeline = pipeline_class.from_single_file(
            str(path),
            config=str(config),
            dtype=dtype,
            local_files_only=True,
            vae=_load_vae(path, config) if vae is None else vae,
            **_clip_tokenizers(config),
            **dict.fromkeys(absent),
        )
    _check_text_encoders(path, pipeline)
    _apply_schedule(path, pipeline, prediction_type)
    return pipeline


def load_single_vae(path: Path, config: Path) -> Any:
    """The autoencoder of a file that holds one, alone or within a checkpoint; in float32.

    Args:
        config: folder in diffusers layout whose vae/ describes it.
    Raises: KronaError if the weights are damaged or do not fit the config.
    """
    with _misfits_told(path, config), unused_weights_told():
        return _load_vae(path, config)


def _load_vae(path: Path, config: Path) -> Any:
    return AutoencoderKL.from_single_file(
        str(path), config=str(config), subfolder="vae", dtype=torch.float32, local_files_only=True
    )


@contextmanager
def _misfits_told(path: Path, config: Path) -> Iterator[None]:
    """Raise KronaError where a file has not what its configs describe."""
    try:
        yield
    except NotImplementedError as error:  # a UNet or an autoencoder with weights on the meta device
        raise KronaError(f"checkpoint {path} lacks weights that {config.name} describes") from error
    except (OSError, LookupError, RuntimeError, ValueError, SingleFileComponentError) as error:
        raise KronaError(f"checkpoint {path} does not fit {config.name}: {error}") from error


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


def _apply_schedule(path: Path, pipeline: Any, prediction_type: str | None) -> None:
    """Follow what is told of a file's training, and its own mark of a schedule without signal."""
    changes: dict[str, Any] = {}
    if prediction_type is not None:
        changes["prediction_type"] = prediction_type
    if "ztsnr" in read_header(path).shapes:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if changes:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **changes)
