"""The end of a sweep: plots on the parent run, the best adapter registered, a sheet to draw."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tune.config.folder import SweepFolder
from tune.names import PastSweep, SweepRun
from tune.records.plots import parallel_coordinates
from tune.records.ranking import Row, best
from tune.records.shown import REPORT
from tune.records.tracking import Tracker
from tune.slots.broker import Job
from tune.slots.slot import ADAPTER_FILE

NUM_ON_SHEET = 4


def conclude(
    tracker: Tracker,
    sweep_run: SweepRun,
    folder: SweepFolder,
    subject: str,
    rows: Sequence[Row],
) -> None:
    """Record what the finished sweep shows, and make its best adapter the champion."""
    with tempfile.TemporaryDirectory() as scratch:
        path = parallel_coordinates(rows, Path(scratch) / "parallel_coordinates.png")
        tracker.log_file(sweep_run.parent_id, path)
    champion = best(rows)
    if champion is not None and champion.balance is not None:
        adapter = folder.trials / champion.key / ADAPTER_FILE
        tracker.register_champion(subject, champion.run_id, adapter, champion.balance)
        tracker.log_dict(sweep_run.parent_id, {"best_run": champion.run_id}, "best.json")


def log_report(tracker: Tracker, sweep: PastSweep) -> None:
    """Keep the sweep's report on its parent run, where MLflow shows it."""
    from tune.report.page import write_report  # plotting takes a second to load: not at the start

    with tempfile.TemporaryDirectory() as scratch:
        path = write_report(tracker, sweep, Path(scratch) / REPORT)
        tracker.log_file(sweep.run_id, path)


def sheet_job(sweep_run: SweepRun, rows: Sequence[Row]) -> Job:
    """The job that draws the best trials, and the paper's default beside them."""
    scored = [row for row in rows if row.has_ended and row.balance is not None]
    shown = scored[:NUM_ON_SHEET]
    shown += [row for row in scored[NUM_ON_SHEET:] if row.is_paper_default]
    trials = [(_label(row), row.run_id) for row in shown]
    return Job(key="sheet", kind="sheet", payload={"sweep_run": sweep_run, "trials": trials})


def _label(row: Row) -> str:
    default = "  paper's default" if row.is_paper_default else ""
    pair = f"({row.a1}, {row.a2})"
    return f"trial {row.key}  {pair}  lr {row.learning_rate:.1e}  {row.balance:.3f}{default}"
