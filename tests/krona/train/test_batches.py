"""A batch: timesteps over the whole schedule, every photo in its turn, weights that add up."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.storage.cache import Cache
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from krona.train.batches import Batch, batch_losses, fixed_batches, random_batch
from krona.train.config import TrainConfig
from krona.train.data import TrainData, prepare_data

CONFIG = TrainConfig(adapter=AdapterConfig(factors=(4, 8)), batch_size=5)
NUM_TIMESTEPS = 1000


@pytest.fixture
def data(sd: Base, subject_dir: Path, cache: Cache) -> TrainData:
    photos = load_photos(subject_dir, resolution=16)
    return prepare_data(sd, load_subject(str(subject_dir)), photos, CONFIG, cache)


def batches(base: Base, data: TrainData, config: TrainConfig, num: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [random_batch(base, data, config, generator) for _ in range(num)]


def test_a_batch_has_one_timestep_in_each_nth_of_the_schedule(sd: Base, data: TrainData) -> None:
    for batch in batches(sd, data, CONFIG, 50):
        steps = batch.timesteps.sort().values
        assert steps[0] >= 0
        assert steps[-1] < NUM_TIMESTEPS
        assert (steps.diff() - NUM_TIMESTEPS / 5).abs().max() <= 1


def test_each_place_of_a_batch_sees_all_timesteps_alike(sd: Base, data: TrainData) -> None:
    drawn = torch.stack([batch.timesteps for batch in batches(sd, data, CONFIG, 2000)]).float()
    for quantile in (0.1, 0.5, 0.9):
        found = drawn.quantile(quantile, dim=0)
        assert (found - quantile * NUM_TIMESTEPS).abs().max() < 0.06 * NUM_TIMESTEPS


def test_no_photo_comes_again_before_all_have_come(sd: Base, data: TrainData) -> None:
    num = len(data.latents)
    known = replace(data.latents, std=torch.zeros_like(data.latents.std))
    config = replace(CONFIG, batch_size=num + 1)
    for batch in batches(sd, replace(data, latents=known), config, 20):
        which = [
            next(i for i in range(num) if torch.equal(row, known.mean[i])) for row in batch.latents
        ]
        assert sorted(which[:num]) == list(range(num))


class Copies(TorchDispatchMode):
    """Counts the tensors that go from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            self.num += args[0].device.type == "cpu" != result.device.type
        if func is torch.ops.aten.copy_.default:
            self.num += args[1].device.type == "cpu" != args[0].device.type
        return result


@pytest.mark.parametrize("num_runs", [1, 3])
def test_a_step_copies_to_the_device_once(
    sdxl: Base, subject_dir: Path, cache: Cache, num_runs: int
) -> None:
    photos = load_photos(subject_dir, resolution=16)
    config = replace(CONFIG, min_snr_gamma=5.0)
    data = prepare_data(sdxl, load_subject(str(subject_dir)), photos, config, cache)
    device = torch.device("meta")
    elsewhere = replace(sdxl, device=device, unet=copy.deepcopy(sdxl.unet).to(device))
    data = replace(data, text=data.text.to(device, sdxl.dtype))
    drawn = batches(elsewhere, data, config, num_runs)
    with Copies() as copies:
        losses = batch_losses(elsewhere, drawn, resolution=16, config=config)
    assert (losses.shape, losses.device) == ((num_runs,), device)
    assert copies.num == 1


def test_class_images_get_a_spread_of_their_own(sd: Base, data: TrainData) -> None:
    both = replace(data, class_latents=data.latents)
    (batch,) = batches(sd, both, replace(CONFIG, prior_weight=0.5), 1)
    assert batch.prompts == (data.prompts[0],) * 5 + (data.prompts[-1],) * 5
    for half in batch.timesteps.split(5):
        assert (half.sort().values.diff() - NUM_TIMESTEPS / 5).abs().max() <= 1
    assert batch.weights.split(5)[0].sum().item() == pytest.approx(1.0)
    assert batch.weights.split(5)[1].sum().item() == pytest.approx(0.5)


def test_each_photo_is_told_by_its_own_caption(sd: Base, subject_dir: Path, cache: Cache) -> None:
    photos = load_photos(subject_dir, resolution=16)
    num = len(photos.names)
    assert num > 1
    told = (*(f"a {{}} in place {i}" for i in range(num - 1)), None)
    subject = load_subject(str(subject_dir))
    data = prepare_data(sd, subject, replace(photos, captions=told), CONFIG, cache)
    known = replace(data.latents, std=torch.zeros_like(data.latents.std))
    data = replace(data, latents=known)
    phrase = f"{subject.identifier} {subject.class_noun}"
    expected = [*(f"a {phrase} in place {i}" for i in range(num - 1)), f"a {phrase}"]
    for batch in [*batches(sd, data, CONFIG, 5), *fixed_batches(sd, data, CONFIG)]:
        embeds = batch.text[batch.rows].embeds
        for latents, prompt, text in zip(batch.latents, batch.prompts, embeds, strict=True):
            which = expected.index(prompt)
            assert torch.equal(latents, known.mean[which])
            assert torch.equal(text, data.text.embeds[which])
