"""A base and a run's settings in; how many such runs to train at once, from measured speed, out."""

import time
from dataclasses import replace

import torch

from krona.adapter.inject import make_adapter
from krona.base.checkpoint import Base
from krona.train.config import TrainConfig
from krona.train.data import TrainData
from krona.train.loop import advance
from krona.train.run import Run
from krona.train.state import TrainState

STEPS = 2
LEAST_GAIN = 1.1


def best_pack_size(
    base: Base,
    data: TrainData,
    config: TrainConfig,
    *,
    most: int,
    budget_bytes: int | None = None,
) -> int:
    """Double the runs for as long as that trains a tenth more of them a second, and memory allows.

    Args:
        config: of each run; nothing is left of what they learn here.
        most: the largest size that is of use.
        budget_bytes: on a CUDA device; the memory of a CPU is not looked at.
    """
    config = replace(config, steps=2 * STEPS, report_every=STEPS, num_fixed_pairs=1)
    best_size, best_speed = 1, _speed(base, data, config, 1)
    while 2 * best_size <= most and _has_room(base.device, budget_bytes):
        try:
            speed = _speed(base, data, config, 2 * best_size)
        except torch.OutOfMemoryError:
            break
        if speed < LEAST_GAIN * best_speed:
            break
        best_size, best_speed = 2 * best_size, speed
    return best_size


def _speed(base: Base, data: TrainData, config: TrainConfig, size: int) -> float:
    """Steps of runs a second, of `size` together."""
    runs = []
    for seed in range(size):
        adapter = make_adapter(base.network, config.adapter, seed=seed)
        runs.append(Run(data, TrainState(adapter, config), config))
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)
    advance(base, runs)  # the first steps also allocate and choose algorithms
    start_s = time.perf_counter()
    advance(base, runs)
    return size * STEPS / (time.perf_counter() - start_s)


def _has_room(device: torch.device, budget_bytes: int | None) -> bool:
    """Whether twice what was used at the worst moment still fits on a CUDA device."""
    if device.type != "cuda" or budget_bytes is None:
        return True
    return 2 * torch.cuda.max_memory_allocated(device) < budget_bytes
