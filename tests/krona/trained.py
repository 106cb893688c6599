"""A base and an adapter's config in, a file of random factors out; and how predictions compare."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from krona.adapter.inject import inject
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.diffusion.sample import sample
from krona.exchange.adapter_file import Manifest, save_adapter


def save_random(base: Base, config: AdapterConfig, path: Path, **changes: Any) -> Tensor:
    """Save an adapter of random factors; return the base's prediction with it."""
    adapter = inject(base.unet, config, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters():
        parameter.data.normal_(std=0.1, generator=generator)
    expected = predict(base.unet)
    adapter.eject()
    save_adapter(path, adapter.state_dict(), make_manifest(base, config, **changes))
    assert (expected - predict(base.unet)).abs().max() > 1e-2
    return expected


def place(folder: Path, format: str) -> Path:
    """Where an export goes, in a folder that is not there yet."""
    return folder / "out" / ("duck" if format in ("peft", "merged") else "duck.safetensors")


def make_manifest(base: Base, config: AdapterConfig, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "config": config,
        "base_model": base.source,
        "base_hash": base.content_hash,
        "family": base.family,
        "prediction_type": base.prediction_type,
        "subject": "duck",
        "class_noun": "toy",
        "identifier": "sks",
        "prompts": ("a {}",),
        "steps": 10,
        "seed": 0,
        "learning_rate": 1e-3,
    }
    return Manifest(**values | changes)


@torch.no_grad()
def predict(unet: Any) -> Tensor:
    """The UNet's output for a fixed input."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 5, unet.config.cross_attention_dim, generator=generator)
    added = {}
    if unet.config.addition_embed_type:
        width = unet.config.projection_class_embeddings_input_dim - 6 * 8
        added = {"text_embeds": torch.ones(2, width), "time_ids": torch.ones(2, 6)}
    step = torch.tensor([3, 700])
    return unet(latents, step, text, added_cond_kwargs=added, return_dict=False)[0]


def draw(base: Base) -> np.ndarray:
    """Grey levels of a few images of fixed prompts and seed.

    A random decoder draws grey on grey: its last layer is amplified, that differences show.
    """
    vae = copy.deepcopy(base.vae)
    vae.decoder.conv_out.weight.mul_(20)
    base = replace(base, vae=vae)
    images = sample(base, ["a sks toy", "a toy on the beach"], steps=4, guidance_scale=3.0, seed=7)
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


def snapshot(unet: nn.Module) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    return dict(unet.named_modules()), {k: v.clone() for k, v in unet.state_dict().items()}


def assert_untouched(
    unet: nn.Module, before: tuple[dict[str, nn.Module], dict[str, Tensor]]
) -> None:
    modules, state = before
    assert dict(unet.named_modules()) == modules
    assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert not hasattr(unet, "peft_config")


def assert_close(got: Tensor, expected: Tensor) -> None:
    error = ((got - expected).norm() / expected.norm()).item()
    print(f"relative error of the prediction: {error:.2g}")
    assert error < 1e-5


@contextmanager
def unchanged(base: Base) -> Iterator[None]:
    """Assert that a block leaves the base's UNet and text encoders as they were."""
    network = base.network
    before = snapshot(network)
    yield
    assert_untouched(network, before)
    assert not hasattr(base.unet, "peft_config")
