"""U1 and U2: one training step of an SDXL-shaped UNet with an adapter around every Q, K, V and O.

U1, over the same step of the frozen UNet: ≤ 1.10 in time and ≤ 1.07 in memory; in time at most
1.05 of LoRA 8's, 0.75 of PEFT LoKr's and 0.65 of the published layer's. Least possible: 1 in time;
1.08 in memory, as an adapter keeps the inputs of its linears, which the frozen UNet need not. U2:
the published layer with gradient checkpointing takes ≥ 2 × as long as krona without; its forwards
run twice.

A step is forward, loss and backward, as in training: latents and text need no gradient, so the
backward ends at the first attention's Q, K and V. The frozen UNet has nothing to train; the outputs
of those three linears need a gradient there, and its backward takes the same way.

All contenders run in every round, so a busy machine slows them alike. Run: make bench
"""

from dataclasses import asdict, dataclass

import tyro
from contenders import ADAPTERS, LORA, OURS, PEFT, PUBLISHED
from record import goal, prepare, save
from rich.console import Console
from rich.table import Table
from step_cost import CHECKPOINTED, Result, measure


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time one training step of an adapted UNet against the frozen one and other adapters."""

    rounds: int = 5
    """Interleaved rounds."""
    threads: int = 1
    """CPU threads of torch."""
    device: str = "cpu"
    """Where to run: cpu or cuda."""


def step_table(result: Result) -> Table:
    """U1's time and memory, with the goals beside krona's."""
    columns = ["adapter", "time", "goal", "peak bytes", "goal", "saved bytes"]
    title = f"U1: one training step over the frozen UNet's, {result.frozen_s:.2f} s"
    table = Table(*columns, title=title)
    for name in (*ADAPTERS, CHECKPOINTED):
        time, peak = result.ratios[name], result.peak[name]
        table.add_row(
            name,
            f"{time:.2f}",
            goal(time, 1.10 if name == OURS else None),
            f"{peak:.2f}",
            goal(peak, 1.07 if name == OURS else None),
            f"{result.saved[name]:.2f}",
        )
    return table


def speed_table(result: Result) -> Table:
    """U1's and U2's ratios of krona's time and others', with the goals."""
    table = Table("", "ratio", "goal", title="U1, U2: one adapter's time over another's")
    table.add_row(f"{OURS} / {LORA}", f"{result.of_lora:.2f}", goal(result.of_lora, 1.05))
    of_peft = "not installed" if result.of_peft is None else f"{result.of_peft:.2f}"
    table.add_row(f"{OURS} / {PEFT}", of_peft, goal(result.of_peft, 0.75))
    of_published = result.of_published
    table.add_row(f"{OURS} / {PUBLISHED}", f"{of_published:.2f}", goal(of_published, 0.65))
    speedup = result.speedup
    table.add_row(f"{CHECKPOINTED} / {OURS}", f"{speedup:.2f}", goal(speedup, 2, is_least=True))
    return table


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    prepare(config.threads)
    console = Console(width=150)
    with console.status("one step of each adapter in every round"):
        result = measure(rounds=config.rounds, device=config.device)
    console.print(step_table(result), speed_table(result))
    console.print(f"written to {save('step', config, config.device, asdict(result))}")


if __name__ == "__main__":
    main()
