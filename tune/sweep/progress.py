"""What the terminal shows of a running sweep, instead of Tune's own tables."""

import time
from pathlib import Path
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.names import BEST, METRIC, TIME, is_final
from tune.slots.broker import JobError
from tune.slots.trial import trial_key

REFRESH_S = 0.5


class Progress(Callback):  # type: ignore[misc]
    """Trials done, running and pruned, the best so far, the time left.

    One line for each trial that ends; on a terminal a live panel below. The line of a failed trial
    says why, and is cut to the terminal's width.
    """

    def __init__(
        self,
        console: Console,
        *,
        trials: int,
        done: int = 0,
        best: tuple[float, int] | None = None,
    ) -> None:
        self._console = console
        self._trials = trials
        self._done_before = done
        self._ended: dict[str, str] = {}
        self._running: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._best = best
        self._started: float | None = None  # with the first report, not while processes start
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def setup(self, *args: Any, **info: Any) -> None:
        """Start the live panel."""
        if self._console.is_terminal:
            self._live.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial waits for its first report."""
        self._running[trial_key(trial.config)] = (trial.config["settings"], {})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported; keep its last score while it trains on."""
        if self._started is None:
            self._started = time.monotonic()
        key = trial_key(trial.config)
        settings, known = self._running[key]
        self._running[key] = (settings, known | result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has finished, or was pruned."""
        self._end(trial, "finished" if is_final(trial.last_result) else "pruned")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed."""
        self._end(trial, "failed", _reason(trial))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Redraw now and then."""
        if self._live.is_started and time.monotonic() - self._drawn > REFRESH_S:
            self._drawn = time.monotonic()
            self._live.update(self._panel(), refresh=True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Take the panel away; the summary follows."""
        self._live.stop()

    def get_state(self) -> None:
        """Nothing to keep."""
        return

    @property
    def num_done(self) -> int:
        """Trials that have ended, those of earlier sessions included."""
        return self._done_before + len(self._ended)

    def time_left_s(self) -> float | None:
        """Estimate from this session's pace; None until a trial has ended."""
        if not self._ended or self._started is None:
            return None
        pace_s = (time.monotonic() - self._started) / len(self._ended)
        return pace_s * (self._trials - self.num_done)

    def _end(self, trial: Any, state: str, reason: str = "") -> None:
        key = trial_key(trial.config)
        settings = trial.config["settings"]
        _, result = self._running.pop(key, (settings, {}))  # none if its actor was never created
        self._ended[key] = state
        score = result.get(BEST)
        if state != "failed" and score is not None:
            scored = (score, trial.config["number"])
            self._best = max(self._best or scored, scored)
        said = "" if score is None else f"  {METRIC} {score:.3f}"
        step = f" at step {result.get(TIME, 0)}" if state != "finished" else ""
        why = f": {reason}" if reason else ""
        line = Text(
            f"[{self.num_done}/{self._trials}] trial {key} {state}{step}{why}{said}  "
            f"{describe(settings)}{self._status()}"
        )
        if reason and self._console.is_terminal:
            line.truncate(self._console.width, overflow="ellipsis")
        self._console.print(line, soft_wrap=True)

    def _status(self) -> str:
        best = (
            "" if self._best is None else f"  best {self._best[0]:.3f} (trial {self._best[1]:03d})"
        )
        left = self.time_left_s()
        return best + ("" if left is None else f"  {_clock(left)} left")

    def _panel(self) -> Table:
        pruned = sum(state == "pruned" for state in self._ended.values())
        failed = sum(state == "failed" for state in self._ended.values())
        counts = (
            f"{self.num_done}/{self._trials} done, {len(self._running)} running, {pruned} pruned"
        )
        line = Text(f"{counts}{f', {failed} failed' if failed else ''}{self._status()}")
        table = Table.grid(padding=(0, 2))
        for key, (settings, result) in self._running.items():
            score = f"{METRIC} {result[METRIC]:.3f}" if METRIC in result else ""
            step = f"step {result.get(TIME, 0)}/{settings['steps']}"
            table.add_row(f"trial {key}", step, score, describe(settings))
        lines = Table.grid()  # a bar in a Group would not end its line
        for part in (
            table,
            ProgressBar(total=self._trials, completed=self.num_done, width=60),
            line,
        ):
            lines.add_row(part)
        return lines


def describe(settings: dict[str, Any]) -> str:
    """A trial's settings on one line."""
    return (
        f"({settings['a1']}, {settings['a2']})  lr {settings['learning_rate']:.1e}  "
        f"{settings['targets']}  {settings['init']}"
    )


def _reason(trial: Any) -> str:
    """The last line of a trial's error, as Tune has written it down; nothing where it has not."""
    if trial.error_file is None:
        return ""
    text = Path(trial.error_file).read_text(errors="replace").strip()
    last = text.rpartition("\n")[2]
    return last.removeprefix(f"{JobError.__module__}.{JobError.__name__}: ")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
