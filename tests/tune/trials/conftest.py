"""One base, scorer and subject for all tests of trials: loading them takes seconds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from short_trials import CONFIG

from tune.trials.experiment import Resident


@pytest.fixture(scope="session")
def resident() -> Resident:
    return Resident.load(CONFIG)
