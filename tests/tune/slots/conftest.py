"""One MLflow store for all tests of slots, and a sweep of two trials in it for each."""

import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

sys.path.insert(0, str(Path(__file__).parent))

from stores import SETTINGS, HeldTracker

from tune.names import SweepRun
from tune.records.tracking import Tracker


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests here: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(uri: str) -> HeldTracker:
    return HeldTracker(uri)


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def sweep_run(tracker: Tracker, request: pytest.FixtureRequest) -> SweepRun:
    return tracker.start_sweep("monster", request.node.name[:80], params={}, tags={})


@pytest.fixture
def run_ids(tracker: Tracker, sweep_run: SweepRun) -> list[str]:
    return [tracker.trial_run(sweep_run, key, SETTINGS) for key in ("000", "001")]
