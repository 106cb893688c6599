"""How a sweep is spread over a cluster: resources in; slots, and what each of them is told, out.

Imports nothing heavy: Ray Train's controller reads a SlotConfig too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from krona.errors import KronaError
from tune.config import ExperimentConfig
from tune.settings import SweepConfig

MAX_CPU_SLOTS = 4  # each holds a copy of the base; torch threads use the cores beyond


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Slots, and what each takes."""

    slots: int
    gpus_per_slot: float
    cpus_per_slot: int


@dataclass(frozen=True, kw_only=True)
class SlotConfig:
    """What every slot of a sweep is told."""

    broker: Any
    experiment: ExperimentConfig
    experiment_module: str
    tracking_uri: str
    folder: Path
    threads: int
    pack: int | Literal["auto"] = 1


def make_plan(config: SweepConfig, resources: Mapping[str, float]) -> Plan:
    """Fit `config` to the resources of a cluster.

    Raises: KronaError if more slots are asked for than there is room.
    """
    cpus, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    if gpus:
        room = int(gpus / config.gpus_per_slot)
        slots = config.slots or max(1, min(room, config.num_trials))
    else:
        room = cpus // (config.cpus_per_slot or 1)
        slots = config.slots or _cpu_slots(config, cpus)
    threads = config.cpus_per_slot or max(1, cpus // max(slots, 1))
    if slots > room or slots * threads > cpus:
        raise KronaError(
            f"{slots} slots of {config.gpus_per_slot if gpus else 0:g} GPUs and {threads} CPU cores"
            f" do not fit into {gpus:g} GPUs and {cpus} cores; ask for fewer slots"
        )
    return Plan(
        slots=slots,
        gpus_per_slot=config.gpus_per_slot if gpus else 0.0,
        cpus_per_slot=threads,
    )


def trials_at_once(config: SweepConfig, plan: Plan, pack: int) -> int:
    """How many trials are in flight when each slot trains `pack` at once."""
    return min(config.max_concurrent or plan.slots * pack, config.num_trials)


def _cpu_slots(config: SweepConfig, cpus: int) -> int:
    """As many slots as share the cores out evenly, up to MAX_CPU_SLOTS and the trials."""
    if config.cpus_per_slot:
        return max(1, min(cpus // config.cpus_per_slot, config.num_trials))
    most = max(1, min(MAX_CPU_SLOTS, cpus, config.num_trials))
    return next(slots for slots in range(most, 0, -1) if cpus % slots == 0)
