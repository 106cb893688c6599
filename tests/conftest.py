"""What all tests share: a cache of their own, one thread, no network, and tiny checkpoints."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_checkpoints
import torch


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Latents and anchors go to a folder of this run; hubs are never asked.

    One thread: on tiny models more of them cost time, and far more beside another busy process.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRONA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    """MLflow writes the last store it was given to the environment; no later test inherits it."""
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 1.5's shape: epsilon, PNDM, an attention-free last level."""
    return tiny_checkpoints.save_sd(tmp_path_factory.mktemp("tiny_sd"))


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 2's shape: v-prediction with zero terminal SNR, linear projections, heads per level."""
    return tiny_checkpoints.save_sd2(tmp_path_factory.mktemp("tiny_sd2"))


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL's shape: two text encoders, added conditions, two transformer blocks in a layer."""
    return tiny_checkpoints.save_sdxl(tmp_path_factory.mktemp("tiny_sdxl"))
