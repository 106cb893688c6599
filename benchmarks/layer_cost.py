"""A layer's shape and precision in; out, the time of each adapter around it, and what it saves."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from contenders import ADAPTERS, FROZEN, check_equal, random_factors
from record import interleave, ratios, time_once
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Layers = dict[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer of T rows, d inputs and outputs, and its goals, where there are some."""

    dtype: str
    num_rows: int
    width: int
    factors: tuple[int, int]
    goal: float | None = None
    peft_goal: float | None = None

    @property
    def name(self) -> str:
        return f"{self.dtype} {self.num_rows}, {self.width} {self.factors}"


CASES = (
    Case(dtype="fp32", num_rows=4096, width=320, factors=(64, 8)),
    Case(dtype="fp32", num_rows=4096, width=640, factors=(64, 8), goal=1.22, peft_goal=0.5),
    Case(dtype="fp32", num_rows=1024, width=1280, factors=(64, 8), goal=1.08, peft_goal=0.5),
    Case(dtype="fp32", num_rows=1024, width=1280, factors=(16, 16)),
    Case(dtype="fp32", num_rows=1024, width=1280, factors=(2, 64)),
    Case(dtype="bf16", num_rows=4096, width=320, factors=(64, 8)),
    Case(dtype="bf16", num_rows=4096, width=640, factors=(64, 8), goal=1.45, peft_goal=0.55),
    Case(dtype="bf16", num_rows=1024, width=1280, factors=(64, 8), goal=1.25, peft_goal=0.55),
    Case(dtype="bf16", num_rows=4096, width=640, factors=(2, 64)),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one case gave, by contender.

    Attributes:
        frozen_ms: median of the frozen layer's forward and backward.
        ratios: time over the frozen layer's.
        saved: bytes kept for the backward, x and weights aside, over those of x.
    """

    frozen_ms: float
    ratios: dict[str, float]
    saved: dict[str, float]


def makers(case: Case, device: str) -> dict[str, Callable[[], nn.Module]]:
    """What makes the frozen layer, and adapters around it, all but LoRA with the same A and B."""
    torch.manual_seed(0)
    base = nn.Linear(case.width, case.width, device=device, dtype=DTYPES[case.dtype])
    base.requires_grad_(False)
    A, B = random_factors(base, case.factors, torch.Generator().manual_seed(0))
    adapters = {name: partial(make, base, A, B) for name, make in ADAPTERS.items()}
    return {FROZEN: lambda: base, **adapters}


def run_once(layer: nn.Module, x: Tensor, grad: Tensor) -> float:
    """Seconds of one forward and backward."""
    x.grad = None
    return time_once(lambda: layer(x).backward(grad), x.device.type)


def saved_share(layer: nn.Module, base: nn.Module, x: Tensor) -> float:
    """Bytes that the layer's forward keeps for the backward over those of x; x does not count."""
    known = {_key(t) for t in (x, *base.parameters(), *layer.parameters())}
    sizes: dict[int, int] = {}
    kept = []  # storages that would be freed could be taken for those that follow

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        sizes[_key(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(n for key, n in sizes.items() if key not in known) / x.untyped_storage().nbytes()


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def make_inputs(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Random x, which needs a gradient, and the gradient of the output, (1, T, d) each."""
    generator = torch.Generator().manual_seed(1)
    shape = 1, case.num_rows, case.width
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    dtype = DTYPES[case.dtype]
    return x.to(device, dtype).requires_grad_(), grad.to(device, dtype)


def measure(case: Case, *, rounds: int, device: str) -> Result:
    """Run one case."""
    layers: Layers = {name: make() for name, make in makers(case, device).items()}
    x, grad = make_inputs(case, device)
    check_equal(layers, lambda layer: layer(x))
    runs: dict[str, Callable[[], float]] = {
        name: partial(run_once, layer, x, grad) for name, layer in layers.items()
    }
    times = interleave(runs, rounds)
    return Result(
        frozen_ms=1e3 * median(times[FROZEN]),
        ratios=ratios(times, FROZEN),
        saved={name: saved_share(layer, layers[FROZEN], x) for name, layer in layers.items()},
    )
