"""Where a sweep's time went: trials' reports with their seconds in; spans on slots' lanes out."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from typing import Literal, get_args

from tune.names import SCORE_S, SLOT, TRAIN_S, WAIT_S, Point, RunFacts
from tune.report.gather import Trial

Activity = Literal["training", "scoring", "waiting", "not recorded"]
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)
METRICS: dict[str, Activity] = {WAIT_S: "waiting", TRAIN_S: "training", SCORE_S: "scoring"}
"""In the order in which they follow each other between two reports."""
NO_SLOT = "slot not recorded"


@dataclass(frozen=True, kw_only=True)
class Span:
    """What a trial did for a while, in seconds since the sweep began, and in which slot."""

    activity: Activity
    start_s: float
    end_s: float
    slot: str


@dataclass(frozen=True, kw_only=True)
class Stay:
    """A trial's spans in one slot, on a lane that it shared with none that was there then."""

    trial: Trial
    spans: tuple[Span, ...]
    lane: str
    is_last: bool
    """Whether the trial ended in this slot."""

    @property
    def start_s(self) -> float:
        """When the trial came, or came back."""
        return self.spans[0].start_s

    @property
    def end_s(self) -> float:
        """When it was last heard of there."""
        return self.spans[-1].end_s

    def total_s(self, activity: Activity) -> float:
        """How long the trial did this here."""
        return sum(span.end_s - span.start_s for span in self.spans if span.activity == activity)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All stays, the sweep's own length, and how long it took until the first trial began."""

    stays: tuple[Stay, ...]
    length_s: float
    opening_s: float
    num_at_once: int

    @property
    def lanes(self) -> list[str]:
        """The lanes in use, slot by slot."""
        return sorted({stay.lane for stay in self.stays}, key=_natural)

    def total_s(self, activity: Activity) -> float:
        """How long all trials did this, added up."""
        return sum(stay.total_s(activity) for stay in self.stays)


def make_timeline(sweep: RunFacts, trials: Sequence[Trial]) -> Timeline:
    """Lay out each trial's time as its reports tell it, by the slots that it was in.

    A trial that told no times is one span from its start to its end.
    """
    origin = sweep.started_s
    ends = [_end_s(trial) for trial in trials]
    last = max([sweep.ended_s or origin, *ends], default=origin)
    first = min((trial.facts.started_s for trial in trials), default=last)
    return Timeline(
        stays=_on_lanes([stay for trial in trials for stay in _stays(trial, origin)]),
        length_s=last - origin,
        opening_s=first - origin,
        num_at_once=_most_at_once(trials),
    )


def _end_s(trial: Trial) -> float:
    """When a trial ended, or was last heard of."""
    if trial.facts.ended_s is not None:
        return trial.facts.ended_s
    heard = [point.time_s for curve in trial.curves.values() for point in curve]
    return max(heard, default=trial.facts.started_s)


def _on_lanes(stays: Sequence[Stay]) -> tuple[Stay, ...]:
    """Put each stay on the first lane of its slot that is free when it begins."""
    ends_s: defaultdict[str, list[float]] = defaultdict(list)
    placed = []
    for stay in sorted(stays, key=lambda stay: stay.start_s):
        taken = ends_s[stay.lane]
        number = next((n for n, end_s in enumerate(taken) if end_s <= stay.start_s), len(taken))
        taken[number : number + 1] = [stay.end_s]
        placed.append(replace(stay, lane=f"{stay.lane} · {number + 1}" if number else stay.lane))
    return tuple(placed)


def _stays(trial: Trial, origin: float) -> list[Stay]:
    """A trial's stays, each still on a lane of its slot's name."""
    spans = _told_spans(trial, origin)
    if not spans:
        start_s, end_s = trial.facts.started_s - origin, _end_s(trial) - origin
        spans = [Span(activity="not recorded", start_s=start_s, end_s=end_s, slot=NO_SLOT)]
    slots = [(slot, tuple(group)) for slot, group in groupby(spans, lambda span: span.slot)]
    return [
        Stay(trial=trial, spans=group, lane=slot, is_last=number == len(slots))
        for number, (slot, group) in enumerate(slots, 1)
    ]


def _told_spans(trial: Trial, origin: float) -> list[Span]:
    """The spans that a trial's reports tell of, in their order."""
    reports = list(zip(*(trial.curves.get(name, ()) for name in METRICS), strict=True))
    slots, spans, before = _slots(trial), [], [0.0] * len(METRICS)
    for report, offset_s in zip(reports, _offsets_s(reports), strict=True):
        spent = [point.value for point in report]
        lengths = (now - then for now, then in zip(spent, before, strict=True))
        edges = pairwise(accumulate(lengths, initial=offset_s - origin + sum(before)))
        slot = slots.get(report[0].step, NO_SLOT)
        spans += [
            Span(activity=activity, start_s=start_s, end_s=end_s, slot=slot)
            for activity, (start_s, end_s) in zip(METRICS.values(), edges, strict=True)
            if end_s > start_s
        ]
        before = spent
    return spans


def _offsets_s(reports: Sequence[tuple[Point, ...]]) -> list[float]:
    """When each report's seconds began to count, as late as no report ends after it was written.

    So one that was slow to be written moves nothing; while a trial was stopped, they do not count.
    """
    begun = [report[0].time_s - sum(point.value for point in report) for report in reports]
    return list(accumulate(reversed(begun), min))[::-1]


def _slots(trial: Trial) -> dict[int, str]:
    """The slot of each report by its step."""
    ranks = {point.step: f"{point.value:.0f}" for point in trial.curves.get(SLOT, ())}
    hosts = {rank: trial.facts.tags.get(f"{SLOT}.{rank}") for rank in ranks.values()}
    return {step: f"slot {rank}, {hosts[rank] or 'unknown host'}" for step, rank in ranks.items()}


def _natural(lane: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", lane)]


def _most_at_once(trials: Sequence[Trial]) -> int:
    changes = [(trial.facts.started_s, 1) for trial in trials]
    changes += [(_end_s(trial), -1) for trial in trials]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
