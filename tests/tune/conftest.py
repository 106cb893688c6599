"""Shared by the search's tests: tiny sweeps over the stand-in experiment, in a folder of their own."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from tune.config import ExperimentConfig  # noqa: E402
from tune.settings import SweepConfig  # noqa: E402

MakeConfig = Callable[..., SweepConfig]


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """A sweep of the stand-in experiment; everything it writes goes to tmp_path."""

    def make(**changes: Any) -> SweepConfig:
        experiment = ExperimentConfig(
            subject=changes.pop("subject", "monster"), identifier=changes.pop("identifier", None)
        )
        defaults: dict[str, Any] = {
            "experiment": experiment,
            "experiment_module": "standin",
            "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
            "storage": tmp_path / "krona-runs",
            "name": "tiny",
            "trials": 4,
            "steps": 20,
            "slots": 1,
        }
        return SweepConfig(**(defaults | changes))

    return make


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for all tests that need it, started as a sweep starts it."""
    from tune.cluster import ray_session

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), before]))
    os.environ["RAY_worker_niceness"] = "0"
    with ray_session(None):
        yield
