"""The open_clip scorer: a folder enters, image and text embeddings leave."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from krona.toyland import world
from krona.toyland.tokenizer import MAX_TOKENS, build_tokenizer

IMAGE_PX = 96
EMBED_DIM = 128
WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"


def scorer_config(vocab_size: int) -> dict[str, Any]:
    """Return open_clip's configuration: a small CLIP ResNet and a two-layer text tower."""
    preprocess = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    return {
        "model_cfg": {
            "embed_dim": EMBED_DIM,
            "vision_cfg": {
                "image_size": IMAGE_PX,
                "layers": [1, 1, 1, 1],
                "width": 16,
                "head_width": 64,
            },
            "text_cfg": {
                "context_length": MAX_TOKENS,
                "vocab_size": vocab_size,
                "width": 96,
                "heads": 4,
                "layers": 2,
                "hf_tokenizer_name": "toyland",
            },
        },
        "preprocess_cfg": preprocess,
    }


def build_scorer() -> open_clip.CLIP:
    """Return an untrained scorer of at most 1.9 M parameters."""
    config = scorer_config(len(build_tokenizer()))["model_cfg"]
    return open_clip.CLIP(**config)


def save_scorer(model: nn.Module, folder: Path) -> None:
    """Write config, float16 weights and tokenizer so that open_clip's 'local-dir:' loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    config = json.dumps(scorer_config(len(tokenizer)), indent=2) + "\n"
    (folder / CONFIG).write_text(config, encoding="utf-8")
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    partial = folder / f"{WEIGHTS}.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS)
    tokenizer.save_pretrained(folder)


def object_texts() -> list[str]:
    """Return "a dog" for every training object, in world.OBJECTS' order."""
    return [world.phrase(noun=thing.name) for thing in world.OBJECTS]


def place_texts() -> list[str]:
    """Return every place but the plain one, in world.PLACES' order."""
    return [place for place in world.PLACES if place != world.PLAIN]


def color_texts(noun: str) -> list[str]:
    """Return "a red dog" for every colour, in world.COLORS' order."""
    return [world.phrase(noun=noun, color=color) for color in world.COLORS]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A trained scorer in evaluation mode."""

    model: open_clip.CLIP
    preprocess: Any
    tokenize: Any

    @classmethod
    def load(cls, folder: Path) -> "Scorer":
        """Load from a folder that open_clip accepts as 'local-dir:<folder>'."""
        name = f"local-dir:{folder}"
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        return cls(
            model=model.eval(), preprocess=preprocess, tokenize=open_clip.get_tokenizer(name)
        )

    @torch.no_grad()
    def images(self, images: list[Image.Image]) -> Tensor:
        """Return unit embeddings (num, EMBED_DIM) of RGB pictures."""
        return self._normal(
            self.model.encode_image(torch.stack([self.preprocess(i) for i in images]))
        )

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """Return unit embeddings (num, EMBED_DIM) of texts."""
        return self._normal(self.model.encode_text(self.tokenize(texts)))

    def best_texts(self, images: list[Image.Image], texts: list[str]) -> np.ndarray:
        """Return, for each picture, the number of the text nearest to it."""
        return (self.images(images) @ self.texts(texts).T).argmax(1).numpy()

    @staticmethod
    def _normal(embeds: Tensor) -> Tensor:
        return functional.normalize(embeds.float(), dim=-1)
