"""Sampling, decoding and scoring on a device that is not the CPU: the CPU's pictures and scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device import NAME, limited, memory, waits
from PIL import Image
from twins import RESOLUTION, MakeRun, Twins

from evals.encoders import load_clip, load_dino
from krona.base.checkpoint import load_base
from krona.diffusion.encode import decode_latents
from krona.diffusion.sample import sample, sample_each
from krona.errors import DoesNotFitError
from krona.train.loop import advance

PROMPTS = ["a dog", "a cat"]


def grey_levels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


def assert_same(images: list[Image.Image], others: list[Image.Image]) -> None:
    """Rounding may tip a grey level over."""
    assert np.abs(grey_levels(images) - grey_levels(others)).max() <= 1


def test_adapters_are_sampled_together_as_on_the_cpu(twins: Twins, make_run: MakeRun) -> None:
    drawn = []
    for base in (twins.here, twins.there):
        runs = [make_run(base, seed=seed) for seed in range(2)]
        advance(base, runs)
        adapters = [run.state.adapter for run in runs]
        drawn.append(sample_each(base, adapters, PROMPTS, steps=2, resolution=RESOLUTION))
    for here, there in zip(*drawn, strict=True):
        assert_same(there, here)
    assert np.any(grey_levels(drawn[0][0]) != grey_levels(drawn[0][1]))


def test_the_host_does_not_wait_between_denoising_steps(tiny_sdxl: Path) -> None:
    base = load_base(tiny_sdxl, device=NAME)
    noted = []
    for steps in (1, 3):
        with waits() as found:
            sample(base, PROMPTS[:1], steps=steps, resolution=RESOLUTION)
            noted.append(list(found))
    assert noted[0] == noted[1]


def test_fewer_images_are_made_at_once_where_memory_is_short(tiny_sd: Path) -> None:
    base = load_base(tiny_sd, device=NAME)
    options: dict[str, Any] = {"num_per_prompt": 2, "steps": 2, "resolution": 32}
    before = memory.peak_bytes = memory.used_bytes
    whole = sample(base, PROMPTS, **options)
    needed_bytes = memory.peak_bytes - before
    with limited(needed_bytes // 2):
        assert_same(sample(base, PROMPTS, **options), whole)
    with limited(10_000), pytest.raises(DoesNotFitError, match="one image does not fit"):
        sample(base, PROMPTS, **options)
    assert memory.used_bytes <= before


def test_an_image_is_decoded_in_tiles_where_memory_is_short(tiny_sd: Path) -> None:
    base = load_base(tiny_sd, device=NAME)
    latents = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)).to(NAME)
    before = memory.peak_bytes = memory.used_bytes
    whole = decode_latents(base, latents).cpu()
    needed_bytes = memory.peak_bytes - before
    base.vae.tile_latent_min_size, base.vae.tile_sample_min_size = 16, 32
    with limited(needed_bytes // 2), pytest.warns(UserWarning, match="in tiles"):
        tiled = decode_latents(base, latents).cpu()
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.2 * whole.std()


def test_encoders_score_as_on_the_cpu_and_in_parts_where_memory_is_short() -> None:
    pytest.importorskip("open_clip")
    pictures = [Image.new("RGB", (64, 64), (40 * i, 255 - 40 * i, 99)) for i in range(5)]
    for load in (load_clip, load_dino):
        here, there = load("toyland"), load("toyland", device=NAME)
        before = memory.peak_bytes = memory.used_bytes
        features = there.images(pictures)
        needed_bytes = memory.peak_bytes - before
        torch.testing.assert_close(features, here.images(pictures), rtol=0, atol=1e-3)
        with limited(needed_bytes // 2):
            torch.testing.assert_close(there.images(pictures), features, rtol=0, atol=1e-3)
    clip = load_clip("toyland", device=NAME)
    torch.testing.assert_close(clip.texts(PROMPTS), load_clip("toyland").texts(PROMPTS))
