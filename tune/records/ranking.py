"""Rows of a sweep, best first, and the tables that show them."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tune.names import METRIC, PAPER_DEFAULT, SCORES, TrialRun
from tune.records.tracking import Tracker

WIDTH = 100
SHOWN = (METRIC, "subject", "prompt")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: what it was told, how far it came, what it scored last."""

    run_id: str
    key: str
    state: str
    a1: int
    a2: int
    learning_rate: float
    steps: int
    targets: str
    init: str
    scores: dict[str, float]
    num_params: int | None
    is_paper_default: bool
    failure: str | None

    @property
    def balance(self) -> float | None:
        """The number that ranks; None for a trial that was never scored."""
        return self.scores.get(METRIC)


def rank(tracker: Tracker, parent_id: str) -> list[Row]:
    """A sweep's trials from MLflow: finished ones first, each group by falling balance.

    A trial whose settings are not recorded yet is left out.
    """
    return sorted((_row(t) for t in tracker.trials(parent_id) if t.params), key=_order)


def best(rows: Sequence[Row]) -> Row | None:
    """The best trial that ran to its end."""
    return next((row for row in rows if row.state == "finished" and row.balance is not None), None)


def ranking_table(rows: Sequence[Row], *, title: str | None = None) -> Table:
    """The ranking as a table for the terminal; the paper's default is marked with a star."""
    shown = [name for name in SHOWN if any(name in row.scores for row in rows)]
    table = Table(title=title, caption="* the paper's default setting", box=SIMPLE_HEAD, padding=0)
    for name in ("trial", "a1,a2", "lr", "steps", "on", "init", *shown, "params", "state"):
        is_text = name in ("on", "init", "state")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    table.add_column("run", no_wrap=True, overflow="crop")
    for row in rows:
        table.add_row(*_cells(row, shown), style=None if row.state == "finished" else "dim")
    return table


def table_console() -> Console:
    """A console that a ranking fits on, also where the output goes to a file."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _cells(row: Row, shown: Sequence[str]) -> list[str]:
    numbers = [f"{row.scores[name]:.3f}" if name in row.scores else "–" for name in shown]
    return [
        row.key + ("*" if row.is_paper_default else ""),
        f"{row.a1},{row.a2}",
        f"{row.learning_rate:.1e}",
        str(row.steps),
        row.targets,
        row.init,
        *numbers,
        "–" if row.num_params is None else f"{row.num_params:,}",
        row.state,
        row.run_id[:8],
    ]


def _row(trial: TrialRun) -> Row:
    params, metrics = trial.params, trial.metrics
    num_params = metrics.get("num_params")
    return Row(
        run_id=trial.run_id,
        key=trial.key,
        state=trial.state,
        a1=int(params["a1"]),
        a2=int(params["a2"]),
        learning_rate=float(params["learning_rate"]),
        steps=int(params["steps"]),
        targets=params["targets"],
        init=params["init"],
        scores={n: metrics[n] for n in SCORES if math.isfinite(metrics.get(n, math.nan))},
        num_params=None if num_params is None else int(num_params),
        is_paper_default=PAPER_DEFAULT in trial.tags,
        failure=trial.tags.get("failure"),
    )


def _order(row: Row) -> tuple[bool, bool, float, str]:
    balance = row.balance
    return row.state != "finished", balance is None, -(balance or 0.0), row.key
