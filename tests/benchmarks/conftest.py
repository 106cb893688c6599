"""The benchmarks are scripts beside the packages; their folder is where they find each other."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from gpu_parts.report import Report  # noqa: E402
from gpu_parts.setup import Setup  # noqa: E402


@pytest.fixture(scope="session")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Toy size on the CPU; checkpoints are made once."""
    return Setup(device="cpu", is_toy=True, checkpoints=tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """An empty report."""
    return Report(tmp_path / "gpu.json", "cpu")
