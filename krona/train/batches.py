"""Batches of runs and their losses: latents and random numbers in, one forward pass for all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from krona.base.arithmetic import autocast, moved
from krona.base.checkpoint import Base
from krona.diffusion.encode import PromptEmbeds, embed
from krona.diffusion.objective import (
    add_noise,
    added_conditions,
    fixed_pairs,
    min_snr_weights,
    target,
)
from krona.train.config import TrainConfig
from krona.train.data import TrainData


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one run has the UNet predict; its tensors are on the CPU, where they were drawn.

    latents, noise: (n, c, h, w).  timesteps: (n,), and alpha_bar (n,) there.
    weights: (n,) of the images' errors in the run's loss.
    prompts: n of them.  rows: (n,) which of `text` they are.
    text: the run's prompts, encoded without an adapter, on the base's device.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    alpha_bar: Tensor
    weights: Tensor
    rows: Tensor
    prompts: tuple[str, ...]
    text: PromptEmbeds

    def __len__(self) -> int:
        return len(self.latents)

    def parts(self, num: int) -> Iterator["Batch"]:
        """As many batches whose losses add up to this one's, of one row at least."""
        size = -(-len(self) // num)
        for start in range(0, len(self), size):
            some = slice(start, start + size)
            drawn = {name: getattr(self, name)[some] for name in _DRAWN}
            yield replace(self, prompts=self.prompts[some], **drawn)


_DRAWN = ("latents", "noise", "timesteps", "alpha_bar", "weights", "rows")


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
    alpha_bar = base.scheduler.alphas_cumprod[timesteps]
    weights = torch.tensor([1.0, config.prior_weight])[: len(dists)].repeat_interleave(n) / n
    if config.min_snr_gamma is not None:
        weights = weights * min_snr_weights(alpha_bar, config.min_snr_gamma, base.prediction_type)
    of_class = torch.full((n * (len(dists) - 1),), len(data.latents))
    rows = torch.cat([drawn[0], of_class])
    return Batch(
        latents=torch.cat(latents),
        noise=noise,
        timesteps=timesteps,
        alpha_bar=alpha_bar,
        weights=weights,
        rows=rows,
        prompts=tuple(data.prompts[row] for row in rows),
        text=data.text,
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


def fixed_batches(
    base: Base, data: TrainData, config: TrainConfig, *, num_parts: int = 1
) -> Iterator[Batch]:
    """The fixed (timestep, noise) pairs at the latents' means, the same for every run on the data.

    The weights are such that the losses of all batches add up to the mean error.
    Args:
        num_parts: what a batch of the config's size is divided by.
    """
    pairs = fixed_pairs(
        tuple(data.latents.mean.shape[1:]),
        num_images=len(data.latents),
        num_pairs=config.num_fixed_pairs,
        num_timesteps=len(base.scheduler.alphas_cumprod),
        generator=torch.Generator().manual_seed(0),
    )
    size = max(1, config.batch_size // num_parts)
    for start in range(0, config.num_fixed_pairs, size):
        some = slice(start, start + size)
        images, timesteps = pairs.images[some], pairs.timesteps[some]
        yield Batch(
            latents=data.latents.mean[images],
            noise=pairs.noise[some],
            timesteps=timesteps,
            alpha_bar=base.scheduler.alphas_cumprod[timesteps],
            weights=torch.full((len(images),), 1 / config.num_fixed_pairs),
            rows=images,
            prompts=tuple(data.prompts[image] for image in images),
            text=data.text,
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
    latents, noise, timesteps, alpha_bar, weights, rows = moved(
        [torch.cat([getattr(batch, name) for batch in batches]) for name in _DRAWN], base.device
    )
    wanted = target(latents, noise, alpha_bar, base.prediction_type)
    sizes = [len(batch) for batch in batches]
    with autocast(base.device, config.mixed_precision):
        if config.adapter.adapts_text:
            text = embed(base, [prompt for batch in batches for prompt in batch.prompts])
        else:
            of_batches = zip(batches, torch.split(rows, sizes), strict=True)
            text = PromptEmbeds.cat([batch.text[some] for batch, some in of_batches])
        added = None if text.pooled is None else added_conditions(text.pooled, resolution)
        predicted = base.unet(
            add_noise(latents, noise, alpha_bar).to(base.dtype),
            timesteps,
            text.embeds,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
    errors = F.mse_loss(predicted.float(), wanted, reduction="none").mean(dim=(1, 2, 3))
    return torch.stack([part.sum() for part in torch.split(weights * errors, sizes)])
