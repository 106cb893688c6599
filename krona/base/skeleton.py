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

from krona.base.autoencoder import vae_class
from krona.base.components import component_class
from krona.base.families import Family, pipeline_family
from krona.base.hub_files import VAE
from krona.base.original_config import ORIGINALS, describe
from krona.base.quiet import quiet_loaders
from krona.base.source import BaseSource
from krona.errors import KronaError

SHIPPED = {"sd15": "sd1", "sd21": "sd2", "sd21-base": "sd2-base", "sdxl": "sdxl"}


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


def build_skeleton(source: str | Path | BaseSource, dtype: torch.dtype = torch.float32) -> Skeleton:
    """Build a base's modules where tensors are made now: on the meta device, or as fake tensors.

    Args:
        source: "sd15", "sd21", "sd21-base", "sdxl" (their configurations ship with krona), or what
            load_base takes; of a folder only the configs are read, of a single file the header.
        dtype: of the UNet and the text encoders; the autoencoder is in float32, as in load_base.
    Raises: KronaError if there is no such base, or a config is missing or damaged.
    """
    source = BaseSource.of(source)
    folder, vae_folder = config_folders(source)
    family = pipeline_family(folder)
    with quiet_loaders(), _default_dtype(dtype):
        unet = _build(component_class(folder, "unet"), folder / "unet")
        names = ("text_encoder", "text_encoder_2") if family == "sdxl" else ("text_encoder",)
        text_encoders = tuple(_build(component_class(folder, n), folder / n) for n in names)
    with quiet_loaders():
        is_own = vae_folder == folder / VAE
        found = component_class(folder, VAE) if is_own else vae_class(vae_folder)
        vae = _build(found, vae_folder)
    pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
    return Skeleton(
        unet=unet,
        vae=vae,
        text_encoders=text_encoders,
        family=family,
        source=source.name,
        resolution=unet.config.sample_size * pixels_per_latent,
    )


def config_folders(source: BaseSource) -> tuple[Path, Path]:
    """The folder in diffusers layout whose configs describe a base, and its autoencoder's."""
    if source.name in SHIPPED:
        folder = ORIGINALS / SHIPPED[source.name]
    else:
        path = source.locate(further=SHIPPED, needs_weights=False)
        folder = path if path.is_dir() else describe(path, source.config).folder
    vae = source.locate_vae(needs_weights=False)
    return folder, vae if vae is not None and vae.is_dir() else folder / VAE


def _build(model: Any, folder: Path) -> Any:
    """One module of a class, as its config describes it."""
    try:
        module = _from_config(model, folder)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise KronaError(f"{folder} has no config to build from: {error}") from error
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
