"""One MLflow store for all tests of the report: making its tables takes seconds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tune.records.tracking import Tracker


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report-store")


@pytest.fixture(scope="session")
def tracker(store: Path) -> Tracker:
    return Tracker(f"sqlite:///{store}/mlflow.db")
