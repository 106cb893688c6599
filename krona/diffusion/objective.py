"""The denoising objective: latents, noise and cumulative alphas in, targets and weights out.

Legend: alpha_bar (n,) is the schedule's cumulative product at each image's timestep;
x_t = sqrt(alpha_bar)·x + sqrt(1 - alpha_bar)·noise, and SNR = alpha_bar / (1 - alpha_bar).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t of latents and noise, each (n, c, h, w)."""
    signal, spread = _mix(alpha_bar)
    return signal * latents + spread * noise


def target(latents: Tensor, noise: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """What the UNet should say for x_t: the noise, or v = sqrt(ā)·noise - sqrt(1-ā)·x.

    Source: v-prediction is Salimans & Ho (arXiv 2202.00512), appendix D.
    """
    if prediction_type == "epsilon":
        return noise
    signal, spread = _mix(alpha_bar)
    return signal * noise - spread * latents


def min_snr_weights(alpha_bar: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Loss weights (n,): min(SNR, gamma) over SNR for epsilon, over SNR + 1 for v.

    Finite where the SNR is 0: the limit 1 for epsilon, 0 for v.
    Source: Min-SNR (arXiv 2303.09556), section 3.4.
    """
    snr = alpha_bar / (1 - alpha_bar)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    return snr.clamp(max=gamma) / (snr + 1)


@dataclass(frozen=True, kw_only=True)
class FixedPairs:
    """Points where the loss is compared between runs.

    images: (m,) which image.  timesteps: (m,).  noise: (m, c, h, w).
    """

    images: Tensor
    timesteps: Tensor
    noise: Tensor


def fixed_pairs(
    latent_shape: tuple[int, ...],
    *,
    num_images: int,
    num_pairs: int,
    num_timesteps: int,
    generator: torch.Generator,
) -> FixedPairs:
    """Spread `num_pairs` timesteps evenly, one in each stratum, over the images in turn."""
    offsets = torch.arange(num_pairs) + torch.rand(num_pairs, generator=generator)
    return FixedPairs(
        images=torch.arange(num_pairs) % num_images,
        timesteps=(offsets * num_timesteps / num_pairs).long().clamp(max=num_timesteps - 1),
        noise=torch.randn(num_pairs, *latent_shape, generator=generator),
    )


def added_conditions(pooled: Tensor, resolution: int) -> dict[str, Tensor]:
    """SDXL's further conditions: pooled text (n, p); original size, crop corner, target size."""
    time_ids = pooled.new_full((len(pooled), 6), resolution)
    time_ids[:, 2:4] = 0
    return {"text_embeds": pooled, "time_ids": time_ids}


def _mix(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
