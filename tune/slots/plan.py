"""How a sweep is spread over a cluster: resources in; slots, and what each of them is told, out.

Imports nothing heavy: Ray Train's controller reads a SlotConfig too.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from krona.errors import KronaError
from tune.config.sweep import SweepConfig
from tune.config.trial import Choices, ExperimentConfig

MAX_CPU_SLOTS = 4  # of a node; each holds a copy of the base; torch threads use the cores beyond


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Slots, and what each takes."""

    slots: int
    gpus_per_slot: float
    cpus_per_slot: int


@dataclass(frozen=True, kw_only=True)
class SlotConfig:
    """What every slot of a sweep is told; gpu_frac is its share of the GPU that it works on."""

    broker: Any
    experiment: ExperimentConfig
    choices: Choices
    experiment_module: str
    tracking_uri: str
    folder: Path
    threads: int
    gpu_frac: float = 1.0
    pack: int | Literal["auto"] = 1


def make_plan(config: SweepConfig, nodes: Sequence[Mapping[str, float]]) -> Plan:
    """Fit `config` to the nodes of a cluster; every slot gets the same share of its node.

    Args:
        nodes: the resources of each, "CPU" and "GPU" among them.
    Raises: KronaError if the nodes do not hold as many slots as are asked for, or none.
    """
    gpus = (config.gpus_per_slot or 1.0) if any(node.get("GPU") for node in nodes) else 0.0
    cpus = config.cpus_per_slot or 1
    room = _room(nodes, gpus=gpus, cpus=cpus)
    is_even = not gpus and config.cpus_per_slot is None
    most = sum(_even_slots(node, config.num_trials) for node in nodes) if is_even else room
    slots = config.slots or max(1, min(most, config.num_trials))
    if slots > room:
        shares = {f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes}
        raise KronaError(
            f"{slots} slots of {cpus} cores and {gpus:g} GPUs do not fit: nodes of"
            f" {', '.join(sorted(shares))} have room for {room}; ask for fewer or smaller slots"
        )
    if config.cpus_per_slot is None:
        rising = range(1, int(max(node.get("CPU", 0) for node in nodes)) + 1)
        cpus = max(n for n in rising if _room(nodes, gpus=gpus, cpus=n) >= slots)
    return Plan(slots=slots, gpus_per_slot=gpus, cpus_per_slot=cpus)


def trials_at_once(config: SweepConfig, plan: Plan, pack: int) -> int:
    """How many trials are in flight when each slot trains `pack` at once."""
    return min(config.max_concurrent or plan.slots * pack, config.num_trials)


def _room(nodes: Sequence[Mapping[str, float]], *, gpus: float, cpus: int) -> int:
    """How many slots of these shares the nodes hold; none reaches over two nodes."""
    return sum(
        min(
            int(node.get("CPU", 0)) // cpus,
            int(node.get("GPU", 0) / gpus) if gpus else sys.maxsize,
        )
        for node in nodes
    )


def _even_slots(node: Mapping[str, float], trials: int) -> int:
    """As many slots as share a node's cores out evenly, up to MAX_CPU_SLOTS and the trials."""
    cpus = int(node.get("CPU", 0))
    most = min(MAX_CPU_SLOTS, cpus, trials)
    return max((slots for slots in range(1, most + 1) if cpus % slots == 0), default=0)
