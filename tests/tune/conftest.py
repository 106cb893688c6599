"""Shared by the search's tests: tiny sweeps of the stand-in experiment in folders of their own."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from tiny import tiny_config  # noqa: E402

from tune.config.sweep import SweepConfig  # noqa: E402

MakeConfig = Callable[..., SweepConfig]


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """`tiny_config` in the test's own folder."""
    return partial(tiny_config, tmp_path)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for all tests that need it, started as a sweep starts it."""
    from tune.slots.cluster import ray_session

    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, [str(HERE), before]))
    os.environ.update({"PYTHONPATH": path, "RAY_worker_niceness": "0"})
    with ray_session(None):
        yield
