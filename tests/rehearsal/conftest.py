"""What a rehearsal needs: a base on the device and its twin on the CPU, and what they train on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from device import NAME
from twins import ON_CUDA, RESOLUTION, MakeRun, Twins

from krona.adapter.inject import make_adapter
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base, load_base
from krona.storage.cache import Cache
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from krona.train.config import TrainConfig
from krona.train.data import prepare_data
from krona.train.run import Run
from krona.train.state import TrainState


@pytest.fixture(autouse=True)
def _on_the_real_device_where_there_is_one(request: pytest.FixtureRequest) -> None:
    if torch.cuda.is_available() and request.node.get_closest_marker("gpu") is None:
        pytest.skip("there is a CUDA device, and torch has room for one")


@pytest.fixture(params=[NAME, pytest.param("cuda", marks=ON_CUDA)])
def device(request: pytest.FixtureRequest) -> str:
    """The device of the rehearsal, and the real one where there is one."""
    name: str = request.param
    return name


@pytest.fixture(params=["tiny_sd", "tiny_sdxl"])
def twins(request: pytest.FixtureRequest, device: str) -> Twins:
    """Both freshly loaded: what a test gives up for memory stays given up."""
    folder: Path = request.getfixturevalue(request.param)
    return Twins(there=load_base(folder, device=device), here=load_base(folder))


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run of one step on the duck's photos, with an average, unless told otherwise."""
    subject = load_subject("duck")
    photos = load_photos(subject.photos_dir, resolution=RESOLUTION)
    cache = Cache(tmp_path / "cache")

    def make(base: Base, *, seed: int = 0, **changes: Any) -> Run:
        told: dict[str, Any] = {
            "adapter": AdapterConfig(factors=(4, 8)),
            "learning_rate": 1e-2,
            "eps": 1e-3,  # else the first steps follow the signs of gradients that are rounding
            "steps": 1,
            "report_every": 1,
            "batch_size": 2,
            "num_fixed_pairs": 2,
            "ema_decay": 0.9,
            "min_snr_gamma": 5.0,
            "resolution": RESOLUTION,
            "seed": seed,
        }
        config = TrainConfig(**told | changes)
        data = prepare_data(base, subject, photos, config, cache)
        adapter = make_adapter(base.network, config.adapter, seed=seed)
        return Run(data, TrainState(adapter, config), config)

    return make
