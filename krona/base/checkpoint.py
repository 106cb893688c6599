"""The frozen base model: a Stable Diffusion checkpoint in, its modules and what they expect out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from krona.adapter.inject import TEXT_ENCODERS, one_root
from krona.base.arithmetic import place_unet, set_switches
from krona.base.autoencoder import load_vae
from krona.base.components import load_components
from krona.base.content_hash import content_hash
from krona.base.families import (
    Family,
    check_components,
    identity_files,
    pipeline_family,
    vae_files,
)
from krona.base.hub_files import VAE
from krona.base.original_config import check_autoencoder, describe
from krona.base.quiet import quiet_loaders
from krona.base.single_file import load_single_file
from krona.base.source import BaseSource, told_name
from krona.errors import KronaError

_TOKENIZERS = ("tokenizer", "tokenizer_2")
PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True, kw_only=True)
class Savings:
    """What is given up for memory on the device; the results stay the same.

    Attributes:
        offloads_vae, offloads_text: the autoencoder, or the text encoders, wait in main memory
            between their uses; adapted text encoders cannot.
        has_checkpointing: blocks are computed again in the backward, and keep nothing for it.
    """

    offloads_vae: bool = False
    offloads_text: bool = False
    has_checkpointing: bool = False


NOTHING_SAVED = Savings()


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A frozen base model; its modules are in eval mode and need no gradient.

    The autoencoder stays in float32 whatever `dtype` is: it runs once per photo, and SDXL's
    overflows in half precision.
    """

    unet: Any = field(repr=False)
    vae: Any = field(repr=False)
    text_encoders: tuple[Any, ...] = field(repr=False)
    tokenizers: tuple[Any, ...] = field(repr=False)
    scheduler: Any
    """The checkpoint's own: noise schedule, timestep spacing."""
    family: Family
    prediction_type: str
    """What the UNet predicts: epsilon or v_prediction."""
    source: str
    """The name or path it was loaded from; a hub's id with its commit."""
    content_hash: str
    """sha256 over its configs, its tokenizers and the middle of every tensor."""
    resolution: int
    """Native side of an image in pixels."""
    device: torch.device
    dtype: torch.dtype
    """Of the UNet and the text encoders."""

    @contextmanager
    def at_work(self, encoder: Any) -> Iterator[Any]:
        """The autoencoder or a text encoder on `device`; afterwards back where it waits."""
        home = encoder.device
        try:
            yield encoder.to(self.device)
        finally:
            encoder.to(home)

    def offload(self, *, keeps_text: bool = False) -> bool:
        """Have the encoders wait in main memory; returns whether any did not before."""
        encoders = (self.vae, *(() if keeps_text else self.text_encoders))
        on_device = [module for module in encoders if module.device.type != "cpu"]
        for module in on_device:
            module.to("cpu")
        return bool(on_device)

    @property
    def network(self) -> nn.Module:
        """What an adapter goes on: one root over the UNet's parts and the text encoders."""
        return one_root(self.unet, self.text_encoders)

    def pipeline(self) -> Any:
        """A diffusers pipeline over these very modules, an injected adapter included."""
        parts: dict[str, Any] = {"unet": self.unet, "vae": self.vae, "scheduler": self.scheduler}
        parts |= dict(zip(TEXT_ENCODERS, self.text_encoders, strict=False))
        parts |= dict(zip(_TOKENIZERS, self.tokenizers, strict=False))
        with quiet_loaders():
            pipeline = _pipeline(self.family, parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _pipeline(family: Family, parts: dict[str, Any]) -> Any:
    """A diffusers pipeline of a base's components; it corrects old schedulers' configs in place."""
    if family == "sdxl":
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def load_base(
    source: str | Path | BaseSource,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    savings: Savings = NOTHING_SAVED,
) -> Base:
    """Load a Stable Diffusion 1.x, 2.x or XL checkpoint, frozen.

    Args:
        source: its name alone, or all that it is loaded from; a hub's is fetched where it is not
            there.
        device, dtype: where the modules go, and in which precision the UNet and the text encoders;
            how a CUDA device computes from here on in this process follows from it (arithmetic.py).
        savings: what memory is saved with.
    Raises: KronaError if the checkpoint is missing, incomplete, pickled, or of another kind.
    """
    source = BaseSource.of(source)
    path, vae = source.locate(), source.locate_vae()
    with quiet_loaders():
        if path.is_dir():
            pipeline, files = _load_folder(path, vae, dtype)
        else:
            pipeline, files = _load_file(path, vae, source.config, dtype)
    base_hash = content_hash(files)
    name = told_name(source.name, path)
    return _freeze(pipeline, name, base_hash, torch.device(device), dtype, savings)


def _load_folder(folder: Path, vae: Path | None, dtype: torch.dtype) -> tuple[Any, list[Path]]:
    """The pipeline, and the files whose content it is."""
    family = pipeline_family(folder)
    without = () if vae is None else (VAE,)
    check_components(folder, family, without=without)
    parts = load_components(folder, family, dtype, without=without)
    if vae is not None:
        parts[VAE] = load_vae(vae, folder)
    return _pipeline(family, parts), identity_files(folder, family, vae)


def _load_file(
    path: Path, vae: Path | None, config: Path | None, dtype: torch.dtype
) -> tuple[Any, list[Path]]:
    """The pipeline, and the files whose content it is."""
    described = describe(path, config)
    check_autoencoder(path, vae)
    folder = described.folder
    pipeline = load_single_file(
        path,
        folder,
        is_xl=pipeline_family(folder) == "sdxl",
        dtype=dtype,
        vae=None if vae is None else load_vae(vae, folder),
        prediction_type=described.prediction_type,
    )
    told = [config] if config is not None and config.is_file() else []
    return pipeline, [path, *told, *sorted(folder.rglob("*.json")), *vae_files(vae)]


def _freeze(
    pipeline: Any,
    source: str,
    base_hash: str,
    device: torch.device,
    dtype: torch.dtype,
    savings: Savings,
) -> Base:
    parts = pipeline.components
    text_encoders = tuple(m for n in TEXT_ENCODERS if (m := parts.get(n)))
    tokenizers = tuple(m for n in _TOKENIZERS if (m := parts.get(n)))
    unet, vae, scheduler = parts["unet"], parts["vae"], parts["scheduler"]
    _check_trainable(source, unet, vae, scheduler)
    for module in (unet, vae, *text_encoders):
        module.requires_grad_(False).eval()
    set_switches(device, dtype)
    place_unet(unet, device)
    vae.to("cpu" if savings.offloads_vae else device)
    for text_encoder in text_encoders:
        text_encoder.to("cpu" if savings.offloads_text else device)
    if savings.has_checkpointing:
        unet.enable_gradient_checkpointing()
    return Base(
        unet=unet,
        vae=vae,
        text_encoders=text_encoders,
        tokenizers=tokenizers,
        scheduler=scheduler,
        family="sdxl" if len(text_encoders) > 1 else "sd",
        prediction_type=scheduler.config.prediction_type,
        source=source,
        content_hash=base_hash,
        resolution=unet.config.sample_size * pipeline.vae_scale_factor,
        device=device,
        dtype=dtype,
    )


def _check_trainable(source: str, unet: Any, vae: Any, scheduler: Any) -> None:
    predicted = scheduler.config.get("prediction_type")
    if predicted not in PREDICTION_TYPES or not hasattr(scheduler, "alphas_cumprod"):
        raise KronaError(
            f"checkpoint {source} has scheduler {type(scheduler).__name__} predicting "
            f"'{predicted}'; supported: discrete schedules with {' or '.join(PREDICTION_TYPES)}"
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise KronaError(
            f"checkpoint {source} has a UNet of {unet.config.in_channels} input channels over "
            f"{vae.config.latent_channels} latent ones (an inpainting model?); give a plain one"
        )
