"""Samples are the pipeline's, depend on (seed, i, j) alone, and show the injected adapter."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from krona.adapter.inject import inject
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.diffusion.sample import _start_noise, sample

PROMPTS = ["a dog", "a red cat"]


def _difference(a: list[Image.Image], b: list[Image.Image]) -> int:
    """Greatest difference in grey levels."""
    left, right = (np.stack([np.asarray(image, np.int16) for image in group]) for group in (a, b))
    return int(np.abs(left - right).max())


@pytest.mark.parametrize("name", ["sd", "sd2", "sdxl"])
def test_samples_are_those_of_diffusers_pipeline(request: pytest.FixtureRequest, name: str) -> None:
    base: Base = request.getfixturevalue(name)
    images = sample(base, PROMPTS, steps=3, guidance_scale=4.0, seed=7)
    pipeline = base.pipeline()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    noise = torch.stack([_start_noise((4, 8, 8), 7, 0, j) for j in range(2)])
    expected = pipeline(PROMPTS, num_inference_steps=3, guidance_scale=4.0, latents=noise).images
    assert _difference(images, expected) <= 1


def test_an_image_depends_on_its_place_not_on_the_batch(sd: Base) -> None:
    together = sample(sd, PROMPTS, num_per_prompt=2, steps=2)
    apart = sample(sd, PROMPTS, num_per_prompt=2, steps=2, batch_size=1)
    first = sample(sd, PROMPTS[:1], steps=2)
    assert _difference(together, apart) <= 1
    assert _difference(together[:1], first) <= 1
    assert len({image.tobytes() for image in together}) == 4
    assert _difference(first, sample(sd, PROMPTS[:1], steps=2, seed=1)) > 1


def test_resolution_sets_the_side(sdxl: Base) -> None:
    (image,) = sample(sdxl, ["a dog"], steps=1, resolution=32)
    assert image.size == (32, 32)


def test_guidance_of_one_ignores_the_negative_prompt(sd: Base) -> None:
    plain = sample(sd, PROMPTS, steps=2, guidance_scale=1.0)
    assert _difference(plain, sample(sd, PROMPTS, steps=2, guidance_scale=1.0)) == 0
    negated = sample(sd, PROMPTS, steps=2, guidance_scale=1.0, negative_prompt="a cow")
    assert _difference(plain, negated) == 0


def test_an_injected_adapter_shows_and_leaves_no_trace(sd: Base) -> None:
    before = sample(sd, PROMPTS, steps=2)
    adapter = inject(sd.unet, AdapterConfig(factors=(4, 8)), seed=0)
    assert _difference(before, sample(sd, PROMPTS, steps=2)) == 0
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    changed = sample(sd, PROMPTS, steps=2)
    adapter.eject()
    assert _difference(before, changed) > 1
    assert _difference(before, sample(sd, PROMPTS, steps=2)) == 0
