"""A base's name, a run's plan and a memory budget in; out, what to save memory with to fit."""

import warnings
from dataclasses import replace

import torch

from krona.checkpoint import NOTHING_SAVED, Savings
from krona.plan import PlanConfig, make_plan

GIB = 1 << 30
# The allocator's gaps and the pictures of an evaluation need some memory besides the plan's.
_USABLE_FRAC = 0.9


def device_budget(device: str | torch.device) -> int | None:
    """Bytes that training may use: most of a GPU's memory; None for a CPU, which has no limit."""
    if torch.device(device).type != "cuda":
        return None
    return int(_USABLE_FRAC * torch.cuda.get_device_properties(device).total_memory)


def fit_budget(base: str, config: PlanConfig, budget_bytes: int | None) -> Savings:
    """The least to give up for a training step to fit; a warning says if nothing suffices.

    Offloading goes first: it costs copies at evaluations, checkpointing a forward in every step.

    Args:
        base: as make_plan() takes it.
        config: of the run; what it says of encoders and checkpointing is not read.
        budget_bytes: on the device, None for no limit.
    """
    if budget_bytes is None:
        return NOTHING_SAVED
    offloaded = Savings(offloads_vae=True, offloads_text=not config.adapter.adapts_text)
    for savings in (NOTHING_SAVED, offloaded, replace(offloaded, has_checkpointing=True)):
        saving = replace(
            config,
            keeps_encoders=not savings.offloads_vae,
            has_checkpointing=savings.has_checkpointing,
        )
        needed_bytes = make_plan(base, saving).memory.total
        if needed_bytes <= budget_bytes:
            return savings
    warnings.warn(
        f"a training step on '{base}' needs {needed_bytes / GIB:.2f} GiB, encoders offloaded and "
        f"blocks recomputed, but {budget_bytes / GIB:.2f} GiB are allowed, so it may run out of "
        "memory; lower the batch size or the resolution",
        stacklevel=2,
    )
    return savings
