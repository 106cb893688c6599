"""The ranking in the terminal: rows in, a table and a console that it fits on out."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tune.config.trial import PAPER_STEPS
from tune.names import METRIC, PastSweep
from tune.records.ranking import Row, best

WIDTH = 100
SHOWN = (METRIC, "subject", "prompt")


def ranking_table(rows: Sequence[Row], *, title: str | None = None) -> Table:
    """The ranking as a table for the terminal; the paper's default is marked with a star."""
    shown = [name for name in SHOWN if any(name in row.shown for row in rows)]
    table = Table(title=title, caption=_caption(rows), box=SIMPLE_HEAD, padding=0)
    table.caption_justify = "left"
    for name in ("trial", "a1,a2", "lr", "step", "on", "init", *shown, "params", "state"):
        is_text = name in ("on", "init", "state")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    table.add_column("run", no_wrap=True, overflow="crop")
    for row in rows:
        table.add_row(*_cells(row, shown), style=None if row.has_ended else "dim")
    return table


def _caption(rows: Sequence[Row]) -> Text:
    """What the star stands for, and a line for each trial that failed: columns leave no room."""
    steps = next((row.steps for row in rows if row.is_paper_default), PAPER_STEPS)
    fewer = f", with {steps} of its {PAPER_STEPS} steps" if steps < PAPER_STEPS else ""
    failed = [f"{row.key} failed: {row.failure}" for row in rows if row.failure]
    star = f"* the paper's default setting{fewer}"
    return Text("\n".join([_balances(rows), star, *failed]))


def _balances(rows: Sequence[Row]) -> str:
    """What the column of balances holds."""
    if not any(row.interval for row in rows):
        return "balance: of each trial's best evaluation, a single look"
    seeds = next((row.num_seeds for row in rows if row.num_seeds), None)
    over = "new images" if seeds is None else f"{seeds} further seeds"
    return f"balance: 95 % interval over {over}; ~ a single look, of the best evaluation"


def table_console() -> Console:
    """A console that a ranking fits on, also where the output goes to a file."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def ranking_json(sweep: PastSweep, rows: Sequence[Row]) -> str:
    """The ranking for scripts: the sweep, the best run's id, and every trial in order."""
    champion = best(rows)
    ranking = {
        "sweep": sweep.name,
        "subject": sweep.subject,
        "best_run": None if champion is None else champion.run_id,
        "trials": [asdict(row) | {METRIC: row.balance} for row in rows],
    }
    return json.dumps(ranking, indent=2, ensure_ascii=False)


def balance_text(row: Row) -> str:
    """A trial's balance, with half of its 95 % interval or a mark that it is a single look."""
    if row.interval:
        return "{:.3f} ± {:.3f}".format(*row.interval)
    return "–" if row.balance is None else f"~{row.balance:.3f}"


def _cells(row: Row, shown: Sequence[str]) -> list[str]:
    numbers = [f"{row.shown[name]:.3f}" if name in row.shown else "–" for name in shown[1:]]
    return [
        row.key + ("*" if row.is_paper_default else ""),
        f"{row.a1},{row.a2}",
        f"{row.learning_rate:.1e}",
        "–" if row.best_step is None else str(row.best_step),
        row.targets,
        row.init,
        balance_text(row),
        *numbers,
        "–" if row.num_params is None else f"{row.num_params:,}",
        row.state,
        row.run_id[:8],
    ]
