"""Memory: as little is given up as the budget asks for, and the adapter stays the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from krona.adapter.inject import inject
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import NOTHING_SAVED, Savings, load_base
from krona.diffusion.sample import sample
from krona.planning.budget import GIB, device_budget, fit_budget, usable_bytes
from krona.planning.plan import PlanConfig, make_plan
from krona.storage.cache import Cache
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from krona.train.config import TrainConfig
from krona.train.data import prepare_data
from krona.train.loop import train
from krona.train.state import TrainState

PLAN = PlanConfig(adapter=AdapterConfig(kind="lora"), batch_size=2)
OFFLOADED = Savings(offloads_vae=True, offloads_text=True)
ALL_SAVED = Savings(offloads_vae=True, offloads_text=True, has_checkpointing=True)


def test_no_more_is_given_up_than_the_budget_asks_for(tiny_sdxl: Path) -> None:
    memory = make_plan(str(tiny_sdxl), PLAN).memory
    without_encoders = memory.total - memory.text_encoders - memory.vae
    chosen = [
        fit_budget(str(tiny_sdxl), PLAN, budget)
        for budget in (None, memory.total, memory.total - 1, without_encoders, without_encoders - 1)
    ]
    assert chosen == [NOTHING_SAVED, NOTHING_SAVED, OFFLOADED, OFFLOADED, ALL_SAVED]


def test_a_budget_that_nothing_meets_is_told(tiny_sdxl: Path) -> None:
    with pytest.warns(UserWarning, match="may run out of memory"):
        assert fit_budget(str(tiny_sdxl), PLAN, 1) == ALL_SAVED


def test_a_cpu_has_no_limit() -> None:
    assert device_budget("cpu") is None


@pytest.mark.parametrize(
    ("free", "gpu_frac", "usable"), [(24.0, 1.0, 21.6), (24.0, 0.5, 10.8), (12.5, 0.5, 10.8)]
)
def test_a_slot_plans_with_most_of_its_share_of_a_gpu(
    recwarn: pytest.WarningsRecorder, free: float, gpu_frac: float, usable: float
) -> None:
    assert usable_bytes(int(free * GIB), 24 * GIB, gpu_frac) == int(usable * GIB)
    assert not recwarn.list


def test_what_other_programs_hold_is_not_planned_with() -> None:
    with pytest.warns(UserWarning, match=r"24.0 GiB only 8.0 are free, fewer than the 24.0"):
        assert usable_bytes(8 * GIB, 24 * GIB, 1.0) == int(7.2 * GIB)


def _trained(folder: Path, subject_dir: Path, cache: Cache, savings: Savings) -> dict[str, Tensor]:
    base = load_base(folder, savings=savings)
    subject = load_subject(str(subject_dir))
    config = TrainConfig(adapter=AdapterConfig(factors=(4, 8)), steps=3, num_fixed_pairs=2)
    data = prepare_data(base, subject, load_photos(subject_dir, resolution=16), config, cache)
    adapter = inject(base.unet, config.adapter, seed=0)
    assert len(list(train(base, data, TrainState(adapter, config), config))) == 1
    return adapter.state_dict()


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sdxl"])
def test_savings_change_nothing_that_is_learned(
    name: str, request: pytest.FixtureRequest, subject_dir: Path, cache: Cache
) -> None:
    folder: Path = request.getfixturevalue(name)
    plain = _trained(folder, subject_dir, cache, NOTHING_SAVED)
    saved = _trained(folder, subject_dir, cache, ALL_SAVED)
    assert all(torch.equal(value, saved[path]) for path, value in plain.items())


def test_checkpointing_reaches_the_loaded_unet(tiny_sd: Path) -> None:
    assert load_base(tiny_sd, savings=ALL_SAVED).unet.is_gradient_checkpointing
    assert not load_base(tiny_sd).unet.is_gradient_checkpointing


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offloaded_encoders_work_on_the_gpu_and_wait_in_main_memory(tiny_sdxl: Path) -> None:
    stays = load_base(tiny_sdxl, device="cuda")
    waits = load_base(tiny_sdxl, device="cuda", savings=OFFLOADED)
    pictures = [sample(base, ["a dog"], steps=2)[0].tobytes() for base in (stays, waits)]
    assert pictures[0] == pictures[1]
    assert {encoder.device.type for encoder in (waits.vae, *waits.text_encoders)} == {"cpu"}
    assert waits.unet.device.type == "cuda"
