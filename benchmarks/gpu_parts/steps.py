"""A base in; out, one image's forward, loss and backward with each adapter, over the frozen UNet's.

As benchmarks/step.py, on the whole UNet in bf16. Attention is torch's fused one.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from contenders import ABSENT, ADAPTERS, FROZEN, LORA, OURS, PEFT, PUBLISHED, relative_errors
from record import interleave, ratios, time_once
from step_cost import CHECKPOINTED, Batch, adapt, draw_factors, make_batch

from gpu_parts.device import captured, kernels, peak_bytes
from gpu_parts.report import OF_LORA, OF_NONE, OF_PEFT, Notes, Value
from gpu_parts.setup import GIB, attempt
from krona.base.checkpoint import Base

TORCH = "krona, torch"
Call = Callable[[], object]


def contest(base: Base, notes: Notes, *, rounds: int) -> None:
    """All adapters, interleaved; their time and memory, and how far krona's prediction is off."""
    batch = batch_of(base)
    unets = make_unets(base, notes)
    calls = {name: step_of(unet, batch) for name, unet in unets.items()}
    peaks: dict[str, int | str] = {}
    for name, call in calls.items():
        attempt(call)  # what only the first step allocates
        peaks[name] = attempt(partial(peak_bytes, call, [unets[name], base.unet], base.device.type))
    if OURS in unets and base.device.type == "cuda":
        calls[TORCH] = kernels(False)(calls[OURS])
    _note(notes, times_of(calls, base.device.type, peaks, rounds=rounds), peaks)
    errors = attempt(lambda: relative_errors(unets, lambda unet: unet(**batch.arguments)[0]))
    notes.add("prediction off krona's", base.family, errors if isinstance(errors, dict) else {})


def batch_of(base: Base) -> Batch:
    """One image's latents, noise and text."""
    pooled_width = base.text_encoders[-1].config.projection_dim
    side = base.unet.config.sample_size
    return make_batch(base.unet, base.device.type, side=side, pooled_width=pooled_width)


def make_unets(base: Base, notes: Notes) -> dict[str, Any]:
    """Copies of the UNet with each adapter; those that cannot be made are told of."""
    factors = draw_factors(base.unet)
    unets = {}
    for name in (FROZEN, *ADAPTERS, CHECKPOINTED):
        made = attempt(partial(adapt, base.unet, name, factors))
        if isinstance(made, str):
            notes.remark(f"{name} cannot be made: {made}.")
        else:
            unets[name] = made
    for name, package in ABSENT.items():
        notes.remark(f"{name} is left out: no {package}.")
    return unets


def step_of(unet: Any, batch: Batch) -> Call:
    """A call that makes one step; gradients are those of this step alone."""

    def step() -> None:
        unet.zero_grad(set_to_none=True)
        batch.loss(unet).backward()  # type: ignore[no-untyped-call]

    return step


def times_of(
    calls: dict[str, Call], device: str, peaks: dict[str, Any], *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call, round by round; those whose peak is a text have failed."""
    runs = {
        name: partial(time_once, call, device)
        for name, call in calls.items()
        if not isinstance(peaks.get(name), str)
    }
    return interleave(runs, rounds, num_dropped=1)


def _note(notes: Notes, times: dict[str, list[float]], peaks: dict[str, int | str]) -> None:
    """A line for each contender, and the goals."""
    over = ratios(times, FROZEN) if FROZEN in times else {}
    frozen = peaks.get(FROZEN)
    for name in dict.fromkeys((*peaks, *times)):
        values: dict[str, Value] = {}
        if name in times:
            values["ms"] = 1e3 * median(times[name])
        if name in over:
            values["time over no adapter"] = over[name]
        peak = peaks.get(name)
        if isinstance(peak, str):
            values["ms"] = peak
        elif peak is not None:
            values["peak GiB beside weights"] = peak / GIB
            if isinstance(frozen, int):
                values["peak over no adapter"] = peak / frozen
        notes.add("a step", name, values)
    if OURS in over:
        _reach(notes, times, over)


def _reach(notes: Notes, times: dict[str, list[float]], over: dict[str, float]) -> None:
    notes.reach(OF_NONE, over[OURS])
    if LORA in times:
        notes.reach(OF_LORA, ratios(times, LORA)[OURS])
    if PEFT in over:
        # What krona adds may be less than can be measured.
        notes.reach(OF_PEFT, (over[PEFT] - 1) / max(over[OURS] - 1, 1e-3))
    if CHECKPOINTED in over:
        recipe = {"published, with checkpointing / krona": over[CHECKPOINTED] / over[OURS]}
        if PUBLISHED in over:
            recipe["published / krona"] = over[PUBLISHED] / over[OURS]
        notes.add("the published recipe", "time", recipe)


def ways(base: Base, notes: Notes, *, rounds: int, compiles: bool) -> None:
    """The same step as it stands and otherwise run, each over the first, and over its own frozen.

    Captured in a CUDA graph, with cuDNN's search for the fastest convolution, with contiguous
    tensors, with the repeated blocks compiled.
    """
    batch, factors = batch_of(base), draw_factors(base.unet)
    unets = {name: adapt(base.unet, name, factors) for name in (FROZEN, LORA, OURS)}
    ours = unets[OURS]
    makers: dict[str, Callable[[], Call]] = {
        f"{OURS}, as it stands": lambda: step_of(ours, batch),
        f"{OURS}, cudnn.benchmark": lambda: _searched(step_of(ours, batch)),
        f"{OURS}, contiguous": lambda: step_of(_contiguous(base, factors), batch),
        **{f"{name}, CUDA graph": partial(_graph, unet, batch) for name, unet in unets.items()},
    }
    if compiles:
        makers[f"{OURS}, blocks compiled"] = lambda: step_of(_compiled(base, factors), batch)
    for name, make in makers.items():
        _compare(name, make, step_of(ours, batch), notes, base.device.type, rounds)


def _compare(
    name: str, make: Callable[[], Call], plain: Call, notes: Notes, device: str, rounds: int
) -> None:
    """Time one way beside the plain one and note it at once, as a later one may take too long."""

    def measure() -> dict[str, Value]:
        calls = {"plain": plain, name: make()}
        times = times_of(calls, device, {}, rounds=rounds)
        over = ratios(times, "plain")[name]
        return {"ms": 1e3 * median(times[name]), "over krona as it stands": over}

    values = attempt(measure)
    notes.add("ways to run a step", name, {"ms": values} if isinstance(values, str) else values)


def _searched(step: Call) -> Call:
    def searched() -> None:
        torch.backends.cudnn.benchmark = True
        try:
            step()
        finally:
            torch.backends.cudnn.benchmark = False

    return searched


def _contiguous(base: Base, factors: Any) -> Any:
    """A copy with weights of its own: those of the base are laid out by channels last."""
    copied = adapt(base.unet, OURS, factors)
    for module in copied.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight = torch.nn.Parameter(module.weight.contiguous(), requires_grad=False)
    return copied


def _graph(unet: Any, batch: Batch) -> Call:
    return captured(lambda: batch.loss(unet).backward(), [unet])  # type: ignore[no-untyped-call]


def _compiled(base: Base, factors: Any) -> Any:
    """A copy whose repeated blocks torch compiles when they first run."""
    copied = adapt(base.unet, OURS, factors)
    copied.compile_repeated_blocks(fullgraph=False)
    return copied
