"""What a training run reads, encoded once: photos, prompts and class images in, tensors out."""

from dataclasses import dataclass
from typing import Any

from krona.base.checkpoint import Base
from krona.diffusion.encode import LatentDist, PromptEmbeds, encode_latents, encode_prompts
from krona.diffusion.prior import class_images
from krona.errors import KronaError
from krona.storage.cache import Cache
from krona.subject.photos import Photos
from krona.subject.subject import Subject
from krona.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """What a run reads, encoded: of the photos and, for prior preservation, of class images.

    prompts: each photo's caption, then the class's.  text: all, encoded, on the base's device.
    """

    latents: LatentDist
    class_latents: LatentDist | None
    prompts: tuple[str, ...]
    text: PromptEmbeds
    resolution: int


def prepare_data(
    base: Base, subject: Subject, photos: Photos, config: TrainConfig, cache: Cache
) -> TrainData:
    """Encode what training reads, from the cache where it is there. Call it before injecting.

    Raises: KronaError if the photos' size is not the config's, or the UNet cannot take it.
    """
    resolution = photos.pixels.shape[-1]
    _check_resolution(base, resolution, config.resolution or base.resolution)
    prompts = (*map(subject.caption, photos.captions), subject.class_prompt)
    text = encode_prompts(base, prompts, cache)
    class_latents = None
    if config.prior_weight:
        images = class_images(
            base,
            subject.class_prompt,
            num=config.num_class_images,
            resolution=resolution,
            cache=cache,
        )
        class_latents = encode_latents(base, images, cache)
    return TrainData(
        latents=encode_latents(base, photos, cache),
        class_latents=class_latents,
        prompts=prompts,
        text=text.to(base.device, base.dtype),
        resolution=resolution,
    )


def _check_resolution(base: Base, got: int, wanted: int) -> None:
    if got != wanted:
        raise KronaError(f"photos are {got} px wide, but the run's resolution is {wanted} px")
    check_pixel_unit(base.unet.config, base.resolution, got)


def check_pixel_unit(unet_config: Any, native: int, got: int) -> None:
    """Raise unless a UNet whose native side is `native` px can halve images of `got` px."""
    unit = native // unet_config.sample_size * 2 ** (len(unet_config.block_out_channels) - 1)
    if got % unit:
        raise KronaError(
            f"resolution={got} is no multiple of {unit} px, the UNet's coarsest cell; "
            f"{max(unit, round(got / unit) * unit)} is"
        )
