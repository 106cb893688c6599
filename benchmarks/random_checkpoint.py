"""A base's name in; out, a checkpoint of its shape with random weights, as load_base takes it.

The modules are made from the configs that ship with krona, on the device itself, so that full size
takes seconds. Times and memory do not depend on the weights' values, only on their being finite:
layers start as torch and the libraries start them. The tokenizers know letters only.

Run: python benchmarks/random_checkpoint.py sdxl FOLDER [--device cuda] [--dtype bf16]
"""

import argparse  # no tyro: this serves where torch, diffusers and krona are, and nothing else
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import torch
from transformers import CLIPTokenizer

from krona.base.arithmetic import DTYPES
from krona.base.original_config import ORIGINALS
from krona.base.quiet import quiet_loaders
from krona.base.skeleton import SHIPPED, Skeleton, build_skeleton

# Component → changes of its config.
Overrides = Mapping[str, Mapping[str, Any]]

_TEXT = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 64, "projection_dim": 64}
_TEXT |= {"num_hidden_layers": 2, "num_attention_heads": 2}
_AUTOENCODER = {
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "sample_size": 16,
}
_UNET = {"block_out_channels": [64, 128], "sample_size": 8, "layers_per_block": 1}
# What makes a base so small that a CPU takes a step in a fraction of a second: two levels, 16 px.
TOY: dict[str, Overrides] = {
    "sd15": {
        "unet": _UNET
        | {
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "attention_head_dim": 2,
            "cross_attention_dim": 64,
        },
        "vae": _AUTOENCODER,
        "text_encoder": _TEXT,
    },
    "sdxl": {
        "unet": _UNET
        | {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": [1, 2],
            "transformer_layers_per_block": [1, 2],
            "cross_attention_dim": 128,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 64,
        },
        "vae": _AUTOENCODER,
        "text_encoder": _TEXT,
        "text_encoder_2": _TEXT,
    },
}


def random_checkpoint(
    name: str,
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    overrides: Overrides | None = None,
    seed: int = 0,
) -> Path:
    """Make a checkpoint in diffusers layout, unless the folder is there, which is then complete.

    Args:
        name: sd15, sd21 or sdxl.
        device: where the weights are drawn; its values depend on it.
        dtype: of the UNet and the text encoders; the autoencoder is in float32.
        overrides: changes of the components' configs, as TOY[name].
    Returns: the folder.
    """
    if folder.exists():
        return folder
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(ORIGINALS / SHIPPED[name], draft)
    for component, changes in (overrides or {}).items():
        _override(draft / component / "config.json", changes)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        skeleton = build_skeleton(draft, dtype)
    _save(skeleton, draft)
    draft.rename(folder)
    return folder


def _override(path: Path, changes: Mapping[str, Any]) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | dict(changes), indent=1), encoding="utf-8")


def _save(skeleton: Skeleton, folder: Path) -> None:
    """Write the weights, and a tokenizer for each text encoder."""
    names = ("text_encoder", "text_encoder_2")
    parts = {"unet": skeleton.unet, "vae": skeleton.vae}
    parts |= dict(zip(names, skeleton.text_encoders, strict=False))
    with quiet_loaders():
        for component, module in parts.items():
            module.save_pretrained(folder / component)
    for path in folder.glob("tokenizer*"):
        told = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
        letters_tokenizer(**told).save_pretrained(path)


def letters_tokenizer(*, pad_token: str, model_max_length: int) -> CLIPTokenizer:
    """A tokenizer that splits every word into its letters; the end's id is the highest."""
    letters = f"{ascii_lowercase}{digits}!,.-'"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocab, merges=[], pad_token=pad_token, model_max_length=model_max_length
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SHIPPED)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--toy", action="store_true", help="small enough for a CPU")
    told = parser.parse_args()
    overrides = TOY[told.name] if told.toy else None
    dtype = DTYPES[told.dtype]
    path = random_checkpoint(
        told.name, told.folder, device=told.device, dtype=dtype, overrides=overrides
    )
    print(path)


if __name__ == "__main__":
    main()
