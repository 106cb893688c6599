"""The objective by hand: with alpha_bar = 0.64, sqrt is 0.8, and sqrt(1 - 0.64) is 0.6."""

import pytest
import torch
from diffusers import DDIMScheduler

from krona.diffusion.objective import (
    add_noise,
    added_conditions,
    fixed_pairs,
    min_snr_weights,
    target,
)

ALPHA_BAR = torch.tensor([0.64])
LATENTS = torch.full((1, 1, 1, 1), 2.0)
NOISE = torch.full((1, 1, 1, 1), -1.0)


def test_noise_and_targets_by_hand() -> None:
    assert add_noise(LATENTS, NOISE, ALPHA_BAR).item() == pytest.approx(0.8 * 2 - 0.6)
    assert target(LATENTS, NOISE, ALPHA_BAR, "epsilon").item() == -1
    assert target(LATENTS, NOISE, ALPHA_BAR, "v_prediction").item() == pytest.approx(-0.8 - 1.2)


def test_noise_and_velocity_agree_with_diffusers() -> None:
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 5, 5, generator=generator)
    timesteps = torch.tensor([0, 500, 999])
    alpha_bar = scheduler.alphas_cumprod[timesteps]
    torch.testing.assert_close(
        add_noise(latents, noise, alpha_bar), scheduler.add_noise(latents, noise, timesteps)
    )
    torch.testing.assert_close(
        target(latents, noise, alpha_bar, "v_prediction"),
        scheduler.get_velocity(latents, noise, timesteps),
    )


def test_min_snr_weights_by_hand() -> None:
    # SNR = 0.9 / 0.1 = 9 above the clamp of 5, 0.5 / 0.5 = 1 below it, and 0 at zero terminal SNR
    alpha_bar = torch.tensor([0.9, 0.5, 0.0])
    epsilon = min_snr_weights(alpha_bar, 5.0, "epsilon")
    torch.testing.assert_close(epsilon, torch.tensor([5 / 9, 1.0, 1.0]))
    v = min_snr_weights(alpha_bar, 5.0, "v_prediction")
    torch.testing.assert_close(v, torch.tensor([5 / 10, 1 / 2, 0.0]))


def test_weighted_v_and_epsilon_losses_agree() -> None:
    """Both are min(SNR, gamma) times the error in the latents that the prediction implies."""
    alpha_bar = torch.tensor([0.9, 0.64, 0.2])
    wrong_by = 0.3  # in the latents
    epsilon_error = wrong_by * (alpha_bar / (1 - alpha_bar)).sqrt()
    v_error = wrong_by / (1 - alpha_bar).sqrt()
    torch.testing.assert_close(
        min_snr_weights(alpha_bar, 5.0, "epsilon") * epsilon_error**2,
        min_snr_weights(alpha_bar, 5.0, "v_prediction") * v_error**2,
    )


def test_fixed_pairs_hold_one_timestep_a_stratum() -> None:
    pairs = fixed_pairs(
        (2, 3, 3),
        num_images=3,
        num_pairs=8,
        num_timesteps=1000,
        generator=torch.Generator().manual_seed(0),
    )
    assert (pairs.timesteps // 125).tolist() == list(range(8))
    assert pairs.images.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert pairs.noise.shape == (8, 2, 3, 3)


def test_sdxl_is_told_an_uncropped_image() -> None:
    added = added_conditions(torch.zeros(2, 5, dtype=torch.bfloat16), 1024)
    assert added["time_ids"].tolist() == [[1024, 1024, 0, 0, 1024, 1024]] * 2
    assert added["time_ids"].dtype == torch.bfloat16
