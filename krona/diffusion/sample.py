"""Images of prompts: the base with whatever is injected in, pictures out."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from torch import Tensor

from krona.adapter.inject import Adapter
from krona.adapter.pack import Pack
from krona.base.checkpoint import Base
from krona.base.memory import in_parts
from krona.diffusion.encode import PromptEmbeds, decode_latents, encode_prompts
from krona.diffusion.objective import added_conditions
from krona.errors import DoesNotFitError
from krona.storage.cache import Cache


def sample(base: Base, prompts: Sequence[str], **options: Any) -> list[Image.Image]:
    """Sample from the base as it stands.

    Args:
        options: of sample_each().
    Returns: the images in prompt order, `num_per_prompt` for each.
    Raises: DoesNotFitError if not even one image fits into memory.
    """
    try:
        (images,) = sample_each(base, [], prompts, **options)
    except torch.OutOfMemoryError as error:
        raise image_does_not_fit(base, error) from error
    return images


def sample_each(
    base: Base,
    adapters: Sequence[Adapter],
    prompts: Sequence[str],
    *,
    num_per_prompt: int = 1,
    first: int = 0,
    steps: int = 20,
    guidance_scale: float = 5.0,
    seed: int = 0,
    negative_prompt: str = "",
    batch_size: int | None = None,
    resolution: int | None = None,
    cache: Cache | None = None,
) -> list[list[Image.Image]]:
    """Sample with DPM-Solver++ (2M) on the checkpoint's own noise schedule and timestep spacing.

    Args:
        adapters: one that may be injected, or several that are not, which share every batch; none
            is the base as it stands.
        num_per_prompt: images for each prompt.
        first: number of a prompt's first image, where those before it are at hand.
        steps: denoising steps.
        guidance_scale: weight of classifier-free guidance; 1 is without, at half the cost.
        seed: image i of prompt j starts from noise that only (seed, i, j) decides.
        batch_size: images at once, which guidance doubles; by their size if not given: 8 of 512 px.
            Where memory is short there are fewer.
        resolution: side in pixels; the base's native one if not given.
        cache: where prompt embeddings are kept.
    Returns: for each adapter the images in prompt order, `num_per_prompt` for each.
    Raises: torch.OutOfMemoryError if not even one image of each adapter fits.
    """
    num = max(1, len(adapters))
    side_px = resolution or base.resolution
    side = side_px * base.unet.config.sample_size // base.resolution
    shape = (base.unet.config.in_channels, side, side)
    texts = [_texts(base, a, prompts, negative_prompt, cache) for a in adapters or (None,)]
    jobs = [(i, j) for j in range(len(prompts)) for i in range(first, first + num_per_prompt)]
    num_at_once = max(1, (batch_size or images_at_once(side_px)) // num)
    with Pack(base.network, adapters) as pack:

        def draw(some: slice) -> list[list[Image.Image]]:
            batch = jobs[some]
            pack.set_rows([len(batch) * (1 if guidance_scale == 1.0 else 2)] * num)
            noise = torch.stack([_start_noise(shape, seed, i, j) for i, j in batch])
            latents = _denoise(
                base,
                noise.to(base.device).expand(num, *noise.shape),
                [(unconditional, asked[[j for _, j in batch]]) for unconditional, asked in texts],
                steps=steps,
                guidance_scale=guidance_scale,
            )
            return [to_images(decode_latents(base, of_adapter)) for of_adapter in latents]

        batches = in_parts(draw, len(jobs), num_at_once)
    return [[image for batch in batches for image in batch[i]] for i in range(num)]


def image_does_not_fit(base: Base, error: torch.OutOfMemoryError) -> DoesNotFitError:
    """What to raise where there is nothing left to give up."""
    said = str(error).partition("\n")[0]
    return DoesNotFitError(
        f"sampling one image does not fit into the memory of {base.device}: {said}; "
        "lower the resolution"
    )


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pictures of pixels (n, 3, h, w) in [-1, 1]."""
    grey_levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(row) for row in grey_levels.permute(0, 2, 3, 1).cpu().numpy()]


def images_at_once(side_px: int) -> int:
    """As many as have the pixels of eight pictures of 512 px, 32 at most."""
    return max(1, min(32, 8 * 512**2 // side_px**2))


@torch.inference_mode()
def _denoise(
    base: Base,
    latents: Tensor,
    texts: Sequence[tuple[PromptEmbeds, PromptEmbeds]],
    *,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """From noise (adapters, n, c, h, w) to latents.

    A batch holds each adapter's rows in turn; both halves of the guidance, where there is one.

    Args:
        texts: for each adapter what guidance leads away from, and the n prompts.
    """
    is_guided = guidance_scale != 1.0
    each = [_joined(*text) if is_guided else text[1] for text in texts]
    text = PromptEmbeds.cat(each).to(base.device, base.dtype)
    resolution = base.resolution * latents.shape[-1] // base.unet.config.sample_size
    added = None if text.pooled is None else added_conditions(text.pooled, resolution)
    scheduler = _scheduler(base)
    scheduler.set_timesteps(steps)
    # Numbers would each be copied to the device, and waited for; the scheduler reads its own.
    for t, on_device in zip(scheduler.timesteps, scheduler.timesteps.to(base.device), strict=True):
        inputs = torch.cat([latents, latents], dim=1) if is_guided else latents
        rows = inputs.flatten(0, 1).to(base.dtype)
        output = base.unet(
            rows, on_device, text.embeds, added_cond_kwargs=added, return_dict=False
        )[0]
        output = output.float().view_as(inputs)
        if is_guided:
            plain, asked = output.chunk(2, dim=1)
            output = torch.lerp(plain, asked, guidance_scale)
        latents = scheduler.step(output, t, latents, return_dict=False)[0]
    return latents


def _scheduler(base: Base) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (Lu et al., arXiv:2211.01095), of order 2; fresh, as it remembers its steps.

    Latents are no pixels, so nothing is clipped.
    """
    return DPMSolverMultistepScheduler.from_config(
        base.scheduler.config, algorithm_type="dpmsolver++", solver_order=2, thresholding=False
    )


def _texts(
    base: Base,
    adapter: Adapter | None,
    prompts: Sequence[str],
    negative_prompt: str,
    cache: Cache | None,
) -> tuple[PromptEmbeds, PromptEmbeds]:
    """What guidance leads away from, and the prompts, as an adapter has the text encoders say."""
    heard = [adapter] if adapter is not None and adapter.adapts_text else []
    with Pack(base.network, heard):
        return _unconditional(base, negative_prompt, cache), encode_prompts(base, prompts, cache)


def _unconditional(base: Base, negative_prompt: str, cache: Cache | None) -> PromptEmbeds:
    """What guidance leads away from; SDXL was trained with zeros for no prompt."""
    embeds = encode_prompts(base, [negative_prompt], cache)
    if negative_prompt or embeds.pooled is None:
        return embeds
    return PromptEmbeds(
        embeds=torch.zeros_like(embeds.embeds), pooled=torch.zeros_like(embeds.pooled)
    )


def _joined(unconditional: PromptEmbeds, conditions: PromptEmbeds) -> PromptEmbeds:
    """The one unconditional row for each condition, then the conditions."""
    return PromptEmbeds.cat([unconditional[[0] * len(conditions.embeds)], conditions])


def _start_noise(shape: tuple[int, ...], seed: int, i: int, j: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{i}/{j}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.randn(shape, generator=generator)
