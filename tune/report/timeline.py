"""Where a sweep's time went: trials' reports with their times in; spans and reasons out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

from tune.names import METRIC, RunFacts
from tune.report.gather import Trial

Activity = Literal["training", "scoring and recording", "preparing and waiting"]
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


@dataclass(frozen=True, kw_only=True)
class Span:
    """What a trial did for a while, in seconds since the sweep began."""

    trial: str
    activity: Activity
    start_s: float
    length_s: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All spans, the sweep's own length, and how long it took until the first trial began."""

    spans: tuple[Span, ...]
    length_s: float
    opening_s: float
    num_at_once: int

    def total_s(self, activity: Activity) -> float:
        """How long all trials did this, added up."""
        return sum(span.length_s for span in self.spans if span.activity == activity)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Where a trial was stopped: its balance, and the median of those scored there before it."""

    trial: Trial
    step: int
    balance: float | None
    median: float | None
    num_before: int


def make_timeline(sweep: RunFacts, trials: Sequence[Trial]) -> Timeline:
    """Split each trial's time by its reports: steps times their measured seconds are training.

    What is left of the time between two reports is scoring where the second one is an evaluation,
    and waiting for the trials beside it where not. A resumed sweep's pauses are in it too.
    """
    origin = sweep.started_s
    ends = [_end_s(trial) for trial in trials]
    last = max([sweep.ended_s or origin, *ends], default=origin)
    spans = tuple(span for trial in trials for span in _spans(trial, origin))
    first = min((trial.facts.started_s for trial in trials), default=last)
    return Timeline(
        spans=spans,
        length_s=last - origin,
        opening_s=first - origin,
        num_at_once=_most_at_once(trials),
    )


def prunings(trials: Sequence[Trial]) -> list[Pruning]:
    """Where each pruned trial was stopped, and what it was compared with."""
    return [_pruning(trial, trials) for trial in trials if trial.row.state == "pruned"]


def _end_s(trial: Trial) -> float:
    """When a trial ended, or was last heard of."""
    if trial.facts.ended_s is not None:
        return trial.facts.ended_s
    heard = [point.time_s for curve in trial.curves.values() for point in curve]
    return max(heard, default=trial.facts.started_s)


def _spans(trial: Trial, origin: float) -> list[Span]:
    spans: list[Span] = []

    def add(activity: Activity, start_s: float, end_s: float) -> None:
        if end_s > start_s:
            length_s = end_s - start_s
            spans.append(
                Span(
                    trial=trial.key,
                    activity=activity,
                    start_s=start_s - origin,
                    length_s=length_s,
                )
            )

    now, step = trial.facts.started_s, 0
    evaluated = {point.step for point in trial.curves[METRIC]}
    for report in trial.curves.get("step_s", ()):
        trained_s = min(report.value * (report.step - step), max(report.time_s - now, 0.0))
        scored = report.step in evaluated
        if scored:
            add("training", now, now + trained_s)
            add("scoring and recording", now + trained_s, report.time_s)
        else:
            add("preparing and waiting", now, report.time_s - trained_s)
            add("training", report.time_s - trained_s, report.time_s)
        now, step = max(report.time_s, now), report.step
    add("preparing and waiting" if step == 0 else "scoring and recording", now, _end_s(trial))
    return spans


def _most_at_once(trials: Sequence[Trial]) -> int:
    changes = [(trial.facts.started_s, 1) for trial in trials]
    changes += [(_end_s(trial), -1) for trial in trials]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def _pruning(trial: Trial, trials: Sequence[Trial]) -> Pruning:
    scored = trial.curves[METRIC]
    if not scored:
        return Pruning(trial=trial, step=trial.last_step, balance=None, median=None, num_before=0)
    end = scored[-1]
    before = [
        point.value
        for other in trials
        if other is not trial
        for point in other.curves[METRIC]
        if point.step == end.step and point.time_s <= end.time_s
    ]
    return Pruning(
        trial=trial,
        step=end.step,
        balance=end.value,
        median=median(before) if before else None,
        num_before=len(before),
    )
