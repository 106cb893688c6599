"""L1, L1b and L2: one adapted linear layer's forward and backward, and what it saves between them.

L1, fp32 (64,8) over the frozen layer: ≤ 1.22 at T 4096, d 640 and ≤ 1.08 at T 1024, d 1280; at most
half of PEFT LoKr's. L1b, bf16: ≤ 1.45 and ≤ 1.25; at most 0.55 of PEFT's. Least possible: the
multiplies of the update, 3(a2 + d/a1)/2d of the frozen layer's (0.01–0.05 here), as the frozen
weight needs no gradient. L2, bytes saved beyond x: ≤ min(a1,a2)/max(a1,a2) of x. Least: none.

All contenders run in every round, so a busy machine slows them alike. Run: make bench
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Literal

import torch
import tyro
from contenders import ADAPTERS, FROZEN, OURS, PEFT, check_equal, random_factors
from record import goal, interleave, prepare, ratios, save, time_once
from rich.console import Console
from rich.table import Table
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
class Config:
    """Time one adapted layer against the frozen one and other adapters."""

    rounds: int = 15
    """Interleaved rounds in a case."""
    dtypes: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Precisions to time; bf16 is slow on a CPU without instructions for it."""
    threads: int = 1
    """CPU threads of torch."""
    device: str = "cpu"
    """Where to run: cpu or cuda."""


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


def make_layers(case: Case, device: str) -> Layers:
    """The frozen layer, and the adapters around it, all but LoRA with the same A and B."""
    torch.manual_seed(0)
    base = nn.Linear(case.width, case.width, device=device, dtype=DTYPES[case.dtype])
    base.requires_grad_(False)
    A, B = random_factors(base, case.factors, torch.Generator().manual_seed(0))
    return {FROZEN: base} | {name: make(base, A, B) for name, make in ADAPTERS.items()}


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


def measure(case: Case, config: Config) -> Result:
    """Run one case."""
    layers = make_layers(case, config.device)
    generator = torch.Generator().manual_seed(1)
    x, grad = (
        torch.randn(1, case.num_rows, case.width, generator=generator).to(
            config.device, DTYPES[case.dtype]
        )
        for _ in range(2)
    )
    x.requires_grad_()
    check_equal(layers, lambda layer: layer(x))
    runs: dict[str, Callable[[], float]] = {
        name: partial(run_once, layer, x, grad) for name, layer in layers.items()
    }
    times = interleave(runs, config.rounds)
    return Result(
        frozen_ms=1e3 * median(times[FROZEN]),
        ratios=ratios(times, FROZEN),
        saved={name: saved_share(layer, layers[FROZEN], x) for name, layer in layers.items()},
    )


def time_table(results: dict[Case, Result]) -> Table:
    """L1 and L1b, with the goal beside ours."""
    columns = ["T, d (a1, a2)", "frozen ms", *ADAPTERS, "goal", "of PEFT", "goal"]
    table = Table(*columns, title="L1, L1b: forward + backward over the frozen layer's")
    for case, result in results.items():
        ours, of_peft = result.ratios[OURS], result.ratios[OURS] / result.ratios[PEFT]
        cells = [f"{result.ratios[name]:.2f}" for name in ADAPTERS]
        table.add_row(
            case.name,
            f"{result.frozen_ms:.2f}",
            *cells,
            goal(ours, case.goal),
            f"{of_peft:.2f}",
            goal(of_peft, case.peft_goal),
        )
    return table


def saved_table(results: dict[Case, Result]) -> Table:
    """L2, with the goal beside ours."""
    table = Table("T, d (a1, a2)", *ADAPTERS, "goal", title="L2: bytes saved beyond x over x's")
    for case, result in results.items():
        cells = [f"{result.saved[name]:.3f}" for name in ADAPTERS]
        limit = min(case.factors) / max(case.factors)
        table.add_row(case.name, *cells, goal(result.saved[OURS], limit))
    return table


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    prepare(config.threads)
    console = Console(width=150)
    results = {}
    for case in (case for case in CASES if case.dtype in config.dtypes):
        with console.status(case.name):
            results[case] = measure(case, config)
    console.print(time_table(results), saved_table(results))
    rows = [asdict(case) | asdict(result) for case, result in results.items()]
    console.print(f"written to {save('layer', config, config.device, rows)}")


if __name__ == "__main__":
    main()
