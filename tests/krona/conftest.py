"""Bases of the tiny checkpoints, a user's folder, and files of adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from trained import save_random

from krona.adapter.inject import attention_linears
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base, load_base
from krona.storage.cache import Cache


@pytest.fixture(scope="session")
def sd(tiny_sd: Path) -> Base:
    """The SD 1.5-shaped base; eject what you inject."""
    return load_base(tiny_sd)


@pytest.fixture(scope="session")
def sd2(tiny_sd2: Path) -> Base:
    """The SD 2-shaped base; eject what you inject."""
    return load_base(tiny_sd2)


@pytest.fixture(scope="session")
def sdxl(tiny_sdxl: Path) -> Base:
    """The SDXL-shaped base; eject what you inject."""
    return load_base(tiny_sdxl)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., tuple[Path, Tensor]]:
    """Save an adapter of random factors; return its file and its base's prediction with it."""

    def save(base: Base, config: AdapterConfig, **changes: Any) -> tuple[Path, Tensor]:
        path = tmp_path / "adapter.safetensors"
        return path, save_random(base, config, path, **changes)

    return save


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def subject_dir(tmp_path: Path) -> Path:
    """A user's folder: three photos of 20x24 px and a subject.toml."""
    folder = tmp_path / "rex"
    folder.mkdir()
    for i, color in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (20, 24), color).save(folder / f"{i}.png")
    (folder / "subject.toml").write_text('class = "dog"\nprompts = ["a {}", "a {} in the snow"]\n')
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Any:
    """Save what DiffuseKronA's code saves, with A of shape (8, 4)."""

    def save(base: Base, **changes: Tensor) -> Path:
        tensors = {}
        generator = torch.Generator().manual_seed(5)
        for path, layer in attention_linears(base.unet).items():
            attention, _, end = path.rpartition(".to_")
            stem = f"unet.{attention}.processor.to_{end.removesuffix('.0')}_lora"
            b_shape = layer.out_features // 8, layer.in_features // 4
            tensors[f"{stem}.down.weight"] = 0.2 * torch.randn(4, 8, generator=generator)
            tensors[f"{stem}.up.weight"] = 0.2 * torch.randn(b_shape, generator=generator)
        path = tmp_path / "pytorch_lora_weights.safetensors"
        save_file(tensors | changes, path)
        return path

    return save
