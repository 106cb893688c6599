"""L1, L1b and L2: one adapted linear layer's forward and backward, and what it saves between them.

L1, fp32 (64,8) over the frozen layer: ≤ 1.22 at T 4096, d 640 and ≤ 1.08 at T 1024, d 1280; at most
half of PEFT LoKr's. L1b, bf16: ≤ 1.45 and ≤ 1.25; at most 0.55 of PEFT's. Least possible: the
multiplies of the update, 3(a2 + d/a1)/2d of the frozen layer's (0.01–0.05 here), as the frozen
weight needs no gradient. L2, bytes saved beyond x: ≤ min(a1,a2)/max(a1,a2) of x. Least: none.

All contenders run in every round, so a busy machine slows them alike. Run: make bench
"""

from dataclasses import asdict, dataclass
from typing import Literal

import tyro
from contenders import ADAPTERS, OURS, PEFT
from layer_cost import CASES, Case, Result, measure
from record import goal, prepare, save
from rich.console import Console
from rich.table import Table


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


def time_table(results: dict[Case, Result]) -> Table:
    """L1 and L1b, with the goal beside ours."""
    columns = ["T, d (a1, a2)", "frozen ms", *ADAPTERS, "goal", "of PEFT", "goal"]
    table = Table(*columns, title="L1, L1b: forward + backward over the frozen layer's")
    for case, result in results.items():
        ours = result.ratios[OURS]
        of_peft = ours / result.ratios[PEFT] if PEFT in ADAPTERS else None
        cells = [f"{result.ratios[name]:.2f}" for name in ADAPTERS]
        table.add_row(
            case.name,
            f"{result.frozen_ms:.2f}",
            *cells,
            goal(ours, case.goal),
            "not installed" if of_peft is None else f"{of_peft:.2f}",
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
            results[case] = measure(case, rounds=config.rounds, device=config.device)
    console.print(time_table(results), saved_table(results))
    rows = [asdict(case) | asdict(result) for case, result in results.items()]
    console.print(f"written to {save('layer', config, config.device, rows)}")


if __name__ == "__main__":
    main()
