"""The part `sample`: images a second that are sampled, decoded and scored, all weights random."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from record import time_once

from evals.encoders import ClipEncoder, DinoEncoder
from gpu_parts.report import Notes
from gpu_parts.setup import Setup, attempt, require
from gpu_parts.training import ADAPTER
from krona.adapter.inject import make_adapter
from krona.base.checkpoint import Base
from krona.diffusion.encode import decode_latents
from krona.diffusion.sample import images_at_once, sample_each

_PROMPTS = ("a duck on a beach", "a duck in the snow")


def run(setup: Setup, notes: Notes) -> None:
    """Scoring comes before the second base, which takes longest to load."""
    images = _draw(setup, notes, "sd15")
    if images:
        _score(setup, notes, images)
    _draw(setup, notes, "sdxl")


def _draw(setup: Setup, notes: Notes, name: str) -> list[Image.Image]:
    """Time sampling with and without an adapter, and decoding; the images."""
    base = setup.load(name)
    steps = setup.pick(20, 2)
    num = setup.pick(images_at_once(base.resolution), 2)
    options = {"steps": steps, "num_per_prompt": num // len(_PROMPTS), "batch_size": num}
    adapter = make_adapter(base.unet, ADAPTER, seed=0)
    drawn: list[Image.Image] = []
    for told, adapters in (("no adapter", []), ("krona", [adapter])):

        def draw(adapters: list[Any] = adapters) -> None:
            drawn[:] = sample_each(base, adapters, _PROMPTS, **options)[0]

        line = f"{name}, {told}, {steps} guided steps at {base.resolution} px"
        _note_rate(notes, "sampled", line, draw, num, setup)
    decode = partial(decode_latents, base, _latents(base, num))
    _note_rate(notes, "decoded", name, decode, num, setup)
    return drawn


def _latents(base: Base, num: int) -> torch.Tensor:
    side = base.unet.config.sample_size
    return torch.randn(num, base.vae.config.latent_channels, side, side, device=base.device)


def _score(setup: Setup, notes: Notes, images: Sequence[Image.Image]) -> None:
    """Time the encoders of the scores; preparing the pixels on the CPU is in the time."""
    makers: dict[str, Callable[[], Any]] = {
        "CLIP": partial(_clip, setup),
        "DINO ViT-S/16": partial(_dino, setup),
    }
    for name, make in makers.items():
        encoder = attempt(make)
        if isinstance(encoder, str):
            notes.add("scored", name, {"images a second": encoder})
        else:
            _note_rate(notes, "scored", name, partial(encoder.images, images), len(images), setup)


def _clip(setup: Setup) -> ClipEncoder:
    require("open_clip")
    import open_clip

    name = setup.pick("ViT-B-32", "ViT-S-32-alt")
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=None)
    tokenizer = open_clip.get_tokenizer(name)
    return ClipEncoder(name, model, preprocess, tokenizer, setup.device)


def _dino(setup: Setup) -> DinoEncoder:
    require("torchvision")
    from transformers import ViTConfig, ViTModel

    heads, width = setup.pick((6, 384), (2, 32))
    config = ViTConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
    model = ViTModel(config, add_pooling_layer=False)
    return DinoEncoder("random", model, config.image_size, setup.device)


def _note_rate(
    notes: Notes, table: str, line: str, run: Callable[[], object], num: int, setup: Setup
) -> None:
    """Note how many of `num` images run() gives in a second, the second time."""

    def rate() -> float:
        run()
        return num / time_once(run, setup.device)

    notes.add(table, line, {"images a second": attempt(rate)})
