"""A base's name or path in, its modules out, made from the configurations alone, without weights.

Under FakeTensorMode or on the meta device they take no memory, and are counted and traced as the
real ones would be.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from krona.base.components import component_class
from krona.base.families import Family, locate, pipeline_family
from krona.base.quiet import quiet_loaders
from krona.base.single_file import ORIGINALS, original_config
from krona.errors import KronaError

SHIPPED = {"sd15": "sd1", "sd21": "sd2", "sdxl": "sdxl"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Skeleton:
    """The modules of a base with their shapes and no values; frozen, in eval mode."""

    unet: Any = field(repr=False)
    vae: Any = field(repr=False)
    text_encoders: tuple[Any, ...] = field(repr=False)
    family: Family
    source: str
    """The name or path that was asked for."""
    resolution: int
    """Native side of an image in pixels."""

    def latent_side(self, resolution: int) -> int:
        """Side of the latents of images of `resolution` px."""
        side: int = self.unet.config.sample_size * resolution // self.resolution
        return side


def build_skeleton(source: str | Path, dtype: torch.dtype = torch.float32) -> Skeleton:
    """Build a base's modules where tensors are made now: on the meta device, or as fake tensors.

    Args:
        source: "sd15", "sd21", "sdxl" (their configurations ship with krona), or what load_base
            takes; of a folder only the configs are read, of a single file only the header.
        dtype: of the UNet and the text encoders; the autoencoder is in float32, as in load_base.
    Raises: KronaError if there is no such base, or a config is missing or damaged.
    """
    folder = config_folder(source)
    family = pipeline_family(folder)
    with quiet_loaders(), _default_dtype(dtype):
        unet = _build(folder, "unet")
        names = ("text_encoder", "text_encoder_2") if family == "sdxl" else ("text_encoder",)
        text_encoders = tuple(_build(folder, name) for name in names)
    with quiet_loaders():
        vae = _build(folder, "vae")
    pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
    return Skeleton(
        unet=unet,
        vae=vae,
        text_encoders=text_encoders,
        family=family,
        source=str(source),
        resolution=unet.config.sample_size * pixels_per_latent,
    )


def config_folder(source: str | Path) -> Path:
    """The folder in diffusers layout whose configs describe a base."""
    if str(source) in SHIPPED:
        return ORIGINALS / SHIPPED[str(source)]
    path = locate(source, further=SHIPPED)
    return path if path.is_dir() else original_config(path)


def _build(folder: Path, component: str) -> Any:
    """One module, as model_index.json names it and its config describes it."""
    model = component_class(folder, component)
    try:
        module = _from_config(model, folder / component)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise KronaError(f"{folder / component} has no config to build from: {error}") from error
    return module.requires_grad_(False).eval()


def _from_config(model: Any, folder: Path) -> Any:
    if hasattr(model, "load_config"):
        return model.from_config(model.load_config(folder, local_files_only=True))
    config = model.config_class.from_pretrained(folder, local_files_only=True)
    config.dtype = torch.get_default_dtype()  # not the one that its weights were saved in
    return model(config)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new parameters in `dtype`: fake ones cannot be converted by Module.to (torch 2.15)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
