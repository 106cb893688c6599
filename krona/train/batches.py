"""Batches of runs and their losses: latents and random numbers in, one forward pass for all."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from krona.checkpoint import Base
from krona.encode import PromptEmbeds, embed
from krona.objective import add_noise, added_conditions, fixed_pairs, min_snr_weights, target
from krona.train.config import TrainConfig
from krona.train.data import TrainData

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one run has the UNet predict.

    latents, noise: (n, c, h, w) and timesteps (n,), on the CPU.
    prompts: n of them.  text: the same, encoded without an adapter, on the base's device.
    weights: (n,) of the images' errors in the run's loss.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: tuple[str, ...]
    text: PromptEmbeds
    weights: Tensor

    def __len__(self) -> int:
        return len(self.latents)


def random_batch(
    base: Base, data: TrainData, config: TrainConfig, generator: torch.Generator
) -> Batch:
    """Images of the subject, then of the class where it is asked for, at random timesteps."""
    dists = [data.latents] if data.class_latents is None else [data.latents, data.class_latents]
    n, num_timesteps = config.batch_size, len(base.scheduler.alphas_cumprod)
    drawn, latents = [], []
    for dist in dists:
        drawn.append(_draw(len(dist), n, generator))
        latents.append(dist.sample(drawn[-1], generator))
    noise = torch.randn(n * len(dists), *latents[0].shape[1:], generator=generator)
    timesteps = torch.cat([_spread(num_timesteps, n, generator) for _ in dists])
    weights = torch.tensor([1.0, config.prior_weight])[: len(dists)].repeat_interleave(n) / n
    if config.min_snr_gamma is not None:
        alpha_bar = base.scheduler.alphas_cumprod[timesteps]
        weights = weights * min_snr_weights(alpha_bar, config.min_snr_gamma, base.prediction_type)
    of_class = [len(data.latents)] * (n * (len(dists) - 1))
    rows = drawn[0].tolist() + of_class
    return Batch(
        latents=torch.cat(latents),
        noise=noise,
        timesteps=timesteps,
        prompts=tuple(data.prompts[row] for row in rows),
        text=data.text[rows],
        weights=weights,
    )


def _draw(num_images: int, n: int, generator: torch.Generator) -> Tensor:
    """Indices of n images, (n,): none comes again before all others have come."""
    num_rounds = -(-n // num_images)
    rounds = [torch.randperm(num_images, generator=generator) for _ in range(num_rounds)]
    return torch.cat(rounds)[:n]


def _spread(num_timesteps: int, n: int, generator: torch.Generator) -> Tensor:
    """Uniform timesteps (n,), one in each n-th of the schedule, in random order.

    Losses of a batch at even distances vary less between batches than independent ones (the
    low-discrepancy sampler of Kingma et al., arXiv:2107.00630).
    """
    even = (torch.rand(1, generator=generator) + torch.randperm(n, generator=generator) / n) % 1
    return (even * num_timesteps).long()


def fixed_batches(base: Base, data: TrainData, config: TrainConfig) -> Iterator[Batch]:
    """The fixed (timestep, noise) pairs at the latents' means, the same for every run on the data.

    The weights are such that the losses of all batches add up to the mean error.
    """
    pairs = fixed_pairs(
        tuple(data.latents.mean.shape[1:]),
        num_images=len(data.latents),
        num_pairs=config.num_fixed_pairs,
        num_timesteps=len(base.scheduler.alphas_cumprod),
        generator=torch.Generator().manual_seed(0),
    )
    for start in range(0, config.num_fixed_pairs, config.batch_size):
        rows = slice(start, start + config.batch_size)
        images = pairs.images[rows].tolist()
        latents = data.latents.mean[images]
        yield Batch(
            latents=latents,
            noise=pairs.noise[rows],
            timesteps=pairs.timesteps[rows],
            prompts=tuple(data.prompts[image] for image in images),
            text=data.text[images],
            weights=torch.full((len(latents),), 1 / config.num_fixed_pairs),
        )


def batch_losses(
    base: Base, batches: Sequence[Batch], *, resolution: int, config: TrainConfig
) -> Tensor:
    """The weighted loss of each batch, (batches,) in float32, from one forward pass of the UNet.

    Args:
        batches: their rows go through the UNet in this order.
        resolution: side of the images in pixels.
        config: of any of the runs; they agree in mixed_precision and in whether text is adapted.
    """
    latents = torch.cat([batch.latents for batch in batches])
    noise = torch.cat([batch.noise for batch in batches])
    timesteps = torch.cat([batch.timesteps for batch in batches])
    weights = torch.cat([batch.weights for batch in batches]).to(base.device)
    alpha_bar = base.scheduler.alphas_cumprod[timesteps]
    wanted = target(latents, noise, alpha_bar, base.prediction_type).to(base.device)
    with _autocast(base, config):
        if config.adapter.adapts_text:
            text = embed(base, [prompt for batch in batches for prompt in batch.prompts])
        else:
            text = PromptEmbeds.cat([batch.text for batch in batches])
        added = None if text.pooled is None else added_conditions(text.pooled, resolution)
        predicted = base.unet(
            add_noise(latents, noise, alpha_bar).to(base.device, base.dtype),
            timesteps.to(base.device),
            text.embeds,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
    errors = F.mse_loss(predicted.float(), wanted, reduction="none").mean(dim=(1, 2, 3))
    parts = torch.split(weights * errors, [len(batch) for batch in batches])
    return torch.stack([part.sum() for part in parts])


def _autocast(base: Base, config: TrainConfig) -> AbstractContextManager[Any]:
    """Autocast without accelerate's Accelerator, whose state is one for the whole process."""
    dtype = _AUTOCAST.get(config.mixed_precision)
    return torch.autocast(base.device.type, dtype, enabled=dtype is not None)
