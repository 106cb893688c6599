"""Reports of trials come in from the slot's thread; a thread beside it takes them to the store."""

import shutil
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from tune.records.tracking import Tracker


class Recorder:
    """Writes the records of a slot's trials in the order in which they come, beside the next steps.

    What waits is bounded: of each trial one evaluation, with its images and its adapter, and the
    numbers reported since. Where the store is slower than training, the next evaluation waits.
    What goes wrong with a record is raised to its own trial, at a later record or in deliver().
    As a context manager it leaves only when all is written; a slot that is killed loses what waits.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._waiting: defaultdict[str, list[Future[None]]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.shutdown(wait=True)

    def log_report(self, run_id: str, report: Any, adapter: Path | None = None) -> None:
        """Have a report written, and with the best evaluation the adapter as its file is now.

        An evaluation first waits for all earlier records of its trial.
        Raises: what went wrong with one of them.
        """
        if report.is_evaluation or any(map(_has_failed, self._waiting[run_id])):
            self.deliver(run_id)
        kept = None if adapter is None else _keep(adapter)
        self._waiting[run_id].append(self._thread.submit(self._write, run_id, report, kept))

    def log_failure(self, run_id: str, text: str) -> None:
        """Write why a trial failed, after its other records; their errors do not fail it again."""
        self._waiting.pop(run_id, None)
        self._thread.submit(self._tracker.log_failure, run_id, text).result()

    def deliver(self, run_id: str) -> None:
        """Wait until a trial's records are written. Raises: what first went wrong with one."""
        waiting = self._waiting.pop(run_id, [])
        wait(waiting)
        for record in waiting:
            record.result()

    def _write(self, run_id: str, report: Any, kept: "TemporaryDirectory[str] | None") -> None:
        if kept is None:
            self._tracker.log_report(run_id, report.step, report.metrics, report.images)
            return
        with kept as folder:
            self._tracker.log_report(run_id, report.step, report.metrics, report.images)
            (adapter,) = Path(folder).iterdir()
            self._tracker.log_adapter(run_id, adapter)


def _has_failed(record: Future[None]) -> bool:
    return record.done() and record.exception() is not None


def _keep(adapter: Path) -> "TemporaryDirectory[str]":
    """A copy under its own name, since the trial's next evaluation overwrites the file."""
    kept = TemporaryDirectory(prefix="krona-")
    shutil.copy(adapter, kept.name)
    return kept
