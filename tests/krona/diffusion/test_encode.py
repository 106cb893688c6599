"""Latents and prompt embeddings are diffusers' own, and computed once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from krona.base.checkpoint import Base
from krona.diffusion.encode import LatentDist, decode_latents, encode_latents, encode_prompts
from krona.storage.cache import Cache
from krona.subject.photos import Photos, load_photos

PROMPTS = ["a sks dog", "a dog in snow"]


@pytest.fixture
def photos(subject_dir: Path) -> Photos:
    return load_photos(subject_dir, resolution=16)


def test_latents_are_the_autoencoders_scaled_posterior(
    sd: Base, photos: Photos, cache: Cache
) -> None:
    dist = encode_latents(sd, photos, cache)
    posterior = sd.vae.encode(photos.pixels).latent_dist
    scale = sd.vae.config.scaling_factor
    torch.testing.assert_close(dist.mean, posterior.mean * scale)
    torch.testing.assert_close(dist.std, posterior.std * scale)
    assert dist.mean.shape == (3, 4, 8, 8)


def test_cache_hit_skips_the_vae(
    sd: Base, photos: Photos, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_latents(sd, photos, cache)
    monkeypatch.setattr(sd.vae, "encode", None)
    again = encode_latents(sd, photos, cache)
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.std, again.std)


def test_cache_hit_skips_the_text_encoder(
    sd: Base, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_prompts(sd, PROMPTS, cache)
    monkeypatch.setattr(sd.text_encoders[0], "forward", None)
    assert torch.equal(encode_prompts(sd, PROMPTS, cache).embeds, first.embeds)


def test_prompt_embeddings_are_the_pipelines(sd: Base, sdxl: Base) -> None:
    expected, _ = sd.pipeline().encode_prompt(PROMPTS, "cpu", 1, False)
    text = encode_prompts(sd, PROMPTS, None)
    torch.testing.assert_close(text.embeds, expected)
    assert text.pooled is None
    embeds, _, pooled, _ = sdxl.pipeline().encode_prompt(
        PROMPTS, device="cpu", do_classifier_free_guidance=False
    )
    text = encode_prompts(sdxl, PROMPTS, None)
    assert text.pooled is not None
    torch.testing.assert_close(text.embeds, embeds)
    torch.testing.assert_close(text.pooled, pooled)


def test_a_long_prompt_is_cut_with_a_warning(sd: Base) -> None:
    with pytest.warns(UserWarning, match="has 32 tokens; the text encoder reads the first 24"):
        encode_prompts(sd, ["a" * 30], None)


def test_an_autoencoder_without_variance_has_std_zero_and_inverts(
    sd: Base, photos: Photos, cache: Cache
) -> None:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).eval()
    base = replace(sd, vae=vae, content_hash="tiny")
    dist = encode_latents(base, photos, cache)
    raw = vae.encode(photos.pixels).latents
    torch.testing.assert_close(dist.mean, (raw - 0.25) * 0.5)
    assert not dist.std.any()
    expected = vae.decode(raw).sample.clamp(-1, 1)
    torch.testing.assert_close(decode_latents(base, dist.mean), expected)


def test_latent_statistics_are_honoured(
    sd: Base, photos: Photos, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = sd.vae.encode(photos.pixels).latent_dist
    statistics = {"latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [1.0, 2.0, 4.0, 8.0]}
    config = type(sd.vae.config)({**sd.vae.config, **statistics})
    monkeypatch.setattr(sd.vae, "_internal_dict", config)
    dist = encode_latents(replace(sd, content_hash="statistics"), photos, cache)
    scale = sd.vae.config.scaling_factor
    torch.testing.assert_close(dist.mean[:, 1], (posterior.mean[:, 1] - 2) * scale / 2)
    torch.testing.assert_close(dist.std[:, 3], posterior.std[:, 3] * scale / 8)


def test_a_draw_follows_mean_and_std() -> None:
    dist = LatentDist(mean=torch.tensor([0.0, 5.0]).reshape(2, 1, 1, 1), std=torch.ones(2, 1, 1, 1))
    draws = dist.sample(torch.ones(4000, dtype=torch.long), torch.Generator().manual_seed(0))
    assert draws.mean().item() == pytest.approx(5, abs=0.1)
    assert draws.std().item() == pytest.approx(1, abs=0.1)
