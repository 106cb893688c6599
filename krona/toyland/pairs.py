"""Pairs of drawn scenes that show one subject at two places, and the loss that finds partners."""

import random
from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional

from krona.toyland import world
from krona.toyland.scenes import SIZE_PX, Painter, pixels
from krona.toyland.trainer import autocast

NUM_VIEWS = 2
SUBJECT_TEMPERATURE = 0.1
# Tinted objects are the hard ones: only their shape tells them apart.
TINTED_FRAC = 0.65


@dataclass(frozen=True, kw_only=True)
class ScenePairs:
    """Two pictures of each drawn subject at different places.

    pictures: (pairs, 2, 3, 64, 64) uint8, two fifths of them rebuilt by the autoencoder.
    facts: one pair of facts per row.
    """

    pictures: Tensor
    facts: list[tuple[world.Facts, world.Facts]]


def pair_facts(rng: random.Random) -> tuple[world.Facts, world.Facts]:
    """Draw one subject (sprite and tint) at two different places."""
    facts = world.random_facts(rng, tinted_frac=TINTED_FRAC)
    other = rng.choice([place for place in world.PLACES if place != facts.place])
    return facts, replace(facts, place=other)


@torch.no_grad()
def rebuild(vae: AutoencoderTiny, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return (num, 3, 64, 64) uint8 pictures as a sampler would blur and smear them."""
    device = next(vae.parameters()).device
    with autocast(device):
        latents = vae.encoder(pictures.to(device).float().div(127.5).sub(1)).float()
        strength = 0.5 * torch.rand(len(latents), 1, 1, 1, generator=generator)
        noise = strength * torch.randn(latents.shape, generator=generator)
        rebuilt = vae.decoder(latents + noise.to(device)).float()
    smeared: Tensor = rebuilt.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).cpu()
    return smeared


def draw_pairs(vae: AutoencoderTiny, *, seed: int, num_pairs: int, chunk: int = 64) -> ScenePairs:
    """Draw num_pairs pairs; two fifths of each chunk of pictures go through the autoencoder."""
    painter, generator = Painter(seed=seed), torch.Generator().manual_seed(seed)
    facts = [pair_facts(painter.rng) for _ in range(num_pairs)]
    drawn = []
    for start in range(0, num_pairs, chunk):
        scenes = [painter.scene(fact) for pair in facts[start : start + chunk] for fact in pair]
        pictures = torch.from_numpy(pixels(scenes)).permute(0, 3, 1, 2).contiguous()
        chosen = torch.randperm(len(pictures), generator=generator)[: int(0.4 * len(pictures))]
        pictures[chosen] = rebuild(vae, pictures[chosen], generator)
        drawn.append(pictures)
    return ScenePairs(
        pictures=torch.cat(drawn).view(num_pairs, NUM_VIEWS, 3, SIZE_PX, SIZE_PX), facts=facts
    )


def augment(pictures: Tensor, size_px: int, generator: torch.Generator) -> Tensor:
    """Crop, sometimes blur, resize, and shift the light of (num, 3, 64, 64) uint8; hue stays.

    Returns: (num, 3, size_px, size_px) float32 in about -1..1.
    """
    num = len(pictures)
    x = pictures.float().div(127.5).sub(1)
    if torch.rand((), generator=generator) < 0.3:
        x = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    zoom = 1 - 0.15 * torch.rand(num, generator=generator)
    theta = torch.zeros(num, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = (1 - zoom)[:, None] * (2 * torch.rand(num, 2, generator=generator) - 1)
    grid = functional.affine_grid(theta, [num, 3, size_px, size_px], align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    contrast = 1 + 0.2 * (2 * torch.rand(num, 1, 1, 1, generator=generator) - 1)
    brightness = 0.06 * torch.randn(num, 3, 1, 1, generator=generator)
    return (x * contrast + brightness).contiguous(memory_format=torch.channels_last)


def subject_loss(images: Tensor) -> Tensor:
    """Ask each unit embedding of (2 * pairs, dim) for its partner among all other pictures."""
    logits = images @ images.T / SUBJECT_TEMPERATURE
    logits = logits.masked_fill(torch.eye(len(images), dtype=torch.bool), -1e4)
    partner = torch.arange(len(images)) ^ 1
    return functional.cross_entropy(logits, partner)
