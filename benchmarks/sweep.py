"""Whole sweeps of equal trials, packed and one at a time, on the embedded default.

Goal: 16 trials take at most half as long in packs of eight as one after the other. Least possible:
what packed steps save of the steps' share (benchmarks/pack.py); sampling for the scores is packed
too, but on two cores a batch of one adapter's pictures is no slower.

Each side is `krona sweep` in a folder of its own, with one slot and all cores. Settings are
searched as ever, but scores come at the end only, so nothing is pruned and the work is the same.
Run: python benchmarks/sweep.py [--help]; wall clock, so nothing else may run beside it.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import torch
import tyro
from record import goal, save
from rich.console import Console
from rich.table import Table

KRONA = Path(sys.executable).with_name("krona")
GOAL = 2.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is swept."""

    trials: int = 16
    """Trials of each sweep."""
    steps: int = 100
    """Optimizer steps of each trial, the same for all."""
    packs: tuple[str, ...] = ("1", "8", "1", "8")
    """The sweeps in the order that they are run; the shortest of each pack size counts."""


def sweep(config: Config, pack: str) -> tuple[float, int]:
    """Run one; seconds from start to end, and the steps that its trials trained."""
    with TemporaryDirectory() as folder:
        command = [str(KRONA), "sweep", "--slots", "1", "--pack", pack]
        command += ["--trials", str(config.trials), "--steps", str(config.steps)]
        command += ["--eval-every", str(config.steps)]
        start_s = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start_s
        client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        experiments = [e.experiment_id for e in client.search_experiments()]
        histories = [
            client.get_metric_history(run.info.run_id, "balance")
            for run in client.search_runs(experiments)
        ]
        return seconds, sum(max(m.step for m in history) for history in histories if history)


def main(config: Config) -> None:
    """Run the sweeps in turn, print and keep their times."""
    sweep(Config(trials=1, steps=1), "1")  # fills the cache of latents and anchors
    best: dict[str, tuple[float, int]] = {}
    for pack in config.packs:
        best[pack] = min(best.get(pack, (float("inf"), 0)), sweep(config, pack))
    table = Table("pack", "seconds", "steps", "times as fast", "goal")
    for pack, (seconds, steps) in best.items():
        speed = best["1"][0] / seconds
        told = goal(speed, None if pack == "1" else GOAL, is_least=True)
        table.add_row(pack, f"{seconds:.0f}", str(steps), f"{speed:.2f}", told)
    Console().print(table)
    save("sweep", config, "cuda" if torch.cuda.is_available() else "cpu", best)


if __name__ == "__main__":
    main(tyro.cli(Config))
