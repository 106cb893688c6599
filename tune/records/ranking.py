"""A sweep in MLflow in, its trials as rows out, best first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tune.names import (
    BEST_STEP,
    CONFIRMED,
    HALF_WIDTH,
    METRIC,
    NUM_SEEDS,
    PAPER_DEFAULT,
    RANK,
    SCORES,
    SEEDS,
    SEEDS_HALF_WIDTH,
    TrialRun,
)
from tune.records.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: what it was told, its best evaluation, and what was found when it was repeated.

    Attributes:
        scores: of the best evaluation, a single look.
        confirmed: of a finalist over images of other noise: balance, subject and prompt.
        interval: (balance, half of its 95 % interval) of a finalist: over those images, or over
            seeds where it was trained again.
        place: in the ranking, once the sweep is over.
    """

    run_id: str
    key: str
    state: str
    a1: int
    a2: int
    learning_rate: float
    steps: int
    best_step: int | None
    targets: str
    init: str
    scores: dict[str, float]
    confirmed: dict[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    num_seeds: int | None = None
    place: int | None = None
    num_params: int | None
    is_paper_default: bool
    failure: str | None

    @property
    def has_ended(self) -> bool:
        """Whether it was neither cut off nor failed."""
        return self.state in ("finished", "pruned")

    @property
    def balance(self) -> float | None:
        """The number that ranks: a finalist's over more images, else that of the best evaluation.

        None for a trial that was never scored.
        """
        return self.interval[0] if self.interval else self.scores.get(METRIC)

    @property
    def shown(self) -> dict[str, float]:
        """The scores of what `balance` is of."""
        return self.scores | self.confirmed


def rank(tracker: Tracker, parent_id: str) -> list[Row]:
    """A sweep's trials from MLflow: finalists, then the others, then those that failed or stopped.

    Each of the three are by falling balance.
    A trial whose settings are not recorded yet is left out.
    """
    return sorted((_row(t) for t in tracker.trials(parent_id) if t.params), key=_order)


def record_ranks(tracker: Tracker, rows: Sequence[Row]) -> list[Row]:
    """Write the place of each row that has ended to its run. Returns: the rows with it."""
    ended = [replace(row, place=i) for i, row in enumerate(rows, start=1) if row.has_ended]
    for row in ended:
        tracker.log_report(row.run_id, 0, {RANK: float(row.place or 0)})
    return [*ended, *(row for row in rows if not row.has_ended)]


def best(rows: Sequence[Row]) -> Row | None:
    """The best trial of those that ended as the search had them end."""
    return next((row for row in rows if row.has_ended and row.balance is not None), None)


def _row(trial: TrialRun) -> Row:
    params, metrics = trial.params, trial.metrics
    num_params, best_step = metrics.get("num_params"), metrics.get(BEST_STEP)
    scores = {name: metrics.get(f"best_{name}", math.nan) for name in SCORES}
    return Row(
        run_id=trial.run_id,
        key=trial.key,
        state=trial.state,
        a1=int(params["a1"]),
        a2=int(params["a2"]),
        learning_rate=float(params["learning_rate"]),
        steps=int(params["steps"]),
        best_step=None if best_step is None else int(best_step),
        targets=params["targets"],
        init=params["init"],
        scores={name: score for name, score in scores.items() if math.isfinite(score)},
        confirmed=_confirmed(metrics),
        interval=_interval(metrics),
        num_seeds=int(metrics[NUM_SEEDS]) if NUM_SEEDS in metrics else None,
        place=int(metrics[RANK]) if RANK in metrics else None,
        num_params=None if num_params is None else int(num_params),
        is_paper_default=PAPER_DEFAULT in trial.tags,
        failure=trial.tags.get("failure"),
    )


def _confirmed(metrics: Mapping[str, float]) -> dict[str, float]:
    names = METRIC, "subject", "prompt"
    found = {name: metrics.get(f"confirmed_{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _interval(metrics: Mapping[str, float]) -> tuple[float, float] | None:
    for value, half_width in ((SEEDS, SEEDS_HALF_WIDTH), (CONFIRMED, HALF_WIDTH)):
        if value in metrics:
            return metrics[value], metrics[half_width]
    return None


def _order(row: Row) -> tuple[bool, bool, bool, bool, float, str]:
    """What was measured better comes first: over seeds, over images, at single looks."""
    balance, is_single = row.balance, row.interval is None
    unscored = balance is None
    return not row.has_ended, row.num_seeds is None, is_single, unscored, -(balance or 0.0), row.key
