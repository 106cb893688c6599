"""The part `layer`: one adapted linear's forward and backward over those of the frozen one.

"called": as from Python, where the calls themselves take most of a small layer's time; "in a CUDA
graph": without them. krona chooses between its fused kernels and torch's operators by measuring;
both are forced, too.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

from contenders import ABSENT, FROZEN, OURS
from layer_cost import CASES, Case, make_inputs, makers, saved_share
from record import interleave, ratios, time_once
from torch import Tensor, nn

from gpu_parts.device import captured, kernels
from gpu_parts.report import Notes, Value
from gpu_parts.setup import Setup, attempt

TRITON, TORCH = "krona, Triton", "krona, torch"
_FORCED = {TRITON: True, TORCH: False}
_TOY_CASES = tuple(
    Case(dtype=dtype, num_rows=32, width=64, factors=(16, 4)) for dtype in ("fp32", "bf16")
)


def run(setup: Setup, notes: Notes) -> None:
    """Each case's lines are noted before the next is begun."""
    for name, package in ABSENT.items():
        notes.remark(f"{name} is left out: no {package}.")
    for case in setup.pick(CASES, _TOY_CASES):
        layers, inputs = _layers(case, setup.device, notes), make_inputs(case, setup.device)
        calls = {name: _calls(name, layer, *inputs) for name, layer in layers.items()}
        sizes = setup.pick((8, 10), (1, 1))
        notes.add("called", case.name, _ratios(calls, setup.device, sizes))
        graphs = {name: _graph(name, layers[name], call) for name, call in calls.items()}
        notes.add("in a CUDA graph", case.name, _ratios(graphs, setup.device, sizes))
        saved = {n: _saved(n, layer, layers[FROZEN], inputs[0]) for n, layer in layers.items()}
        notes.add("bytes saved beyond x over x's", case.name, saved)


def _layers(case: Case, device: str, notes: Notes) -> dict[str, nn.Module]:
    """By contender; those that cannot be made are told of."""
    made = {name: attempt(make) for name, make in makers(case, device).items()}
    for name, error in made.items():
        if isinstance(error, str):
            notes.remark(f"{case.name}: {name} cannot be made: {error}.")
    layers = {name: layer for name, layer in made.items() if not isinstance(layer, str)}
    for name in (*([TRITON] if device == "cuda" else []), TORCH):
        layers[name] = layers[OURS]
    return layers


def _way(name: str) -> Any:
    """Within it krona's layers multiply as the contender's name says."""
    return kernels(_FORCED[name]) if name in _FORCED else nullcontext()


def _calls(name: str, layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[int], None]:
    """So many forwards and backwards as a contender's name says."""

    def call(num: int = 1) -> None:
        with _way(name):
            for _ in range(num):
                x.grad = None
                layer(x).backward(grad)

    return call


def _graph(name: str, layer: nn.Module, call: Callable[..., None]) -> Callable[[int], None] | str:
    """The same of a CUDA graph, or why there is none."""
    replay = attempt(lambda: captured(call, [layer]))
    if isinstance(replay, str):
        return replay

    def replays(num: int) -> None:
        for _ in range(num):
            replay()

    return replays


def _ratios(
    calls: dict[str, Callable[[int], None] | Any], device: str, sizes: tuple[int, int]
) -> dict[str, Value]:
    """The frozen layer's milliseconds, and each contender's time over it, or why there is none.

    Args:
        sizes: rounds, and calls in one measurement.
    """
    rounds, num = sizes
    failed: dict[str, Value] = {n: call for n, call in calls.items() if isinstance(call, str)}
    for name in calls.keys() - failed.keys():
        error = attempt(partial(calls[name], 1))
        if isinstance(error, str):
            failed[name] = error
    if FROZEN in failed:
        return {"frozen ms": failed[FROZEN]}
    runs = {
        name: partial(time_once, partial(calls[name], num), device)
        for name in calls
        if name not in failed
    }
    times = interleave(runs, rounds)
    values: dict[str, Value] = {"frozen ms": 1e3 * median(times[FROZEN]) / num}
    values |= {n: ratio for n, ratio in ratios(times, FROZEN).items() if n != FROZEN}
    return values | failed


def _saved(name: str, layer: nn.Module, frozen: nn.Module, x: Tensor) -> Value:
    with _way(name):
        return attempt(lambda: saved_share(layer, frozen, x))
