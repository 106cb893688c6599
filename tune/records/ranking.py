"""A sweep in MLflow in, its trials as rows out, best first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tune.names import BEST_STEP, METRIC, PAPER_DEFAULT, SCORES, TrialRun
from tune.records.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: what it was told, and its best evaluation."""

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
    num_params: int | None
    is_paper_default: bool
    failure: str | None

    @property
    def has_ended(self) -> bool:
        """Whether it was neither cut off nor failed."""
        return self.state in ("finished", "pruned")

    @property
    def balance(self) -> float | None:
        """The number that ranks; None for a trial that was never scored."""
        return self.scores.get(METRIC)


def rank(tracker: Tracker, parent_id: str) -> list[Row]:
    """A sweep's trials from MLflow by falling balance; those that failed or were stopped are last.

    A trial whose settings are not recorded yet is left out.
    """
    return sorted((_row(t) for t in tracker.trials(parent_id) if t.params), key=_order)


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
        num_params=None if num_params is None else int(num_params),
        is_paper_default=PAPER_DEFAULT in trial.tags,
        failure=trial.tags.get("failure"),
    )


def _order(row: Row) -> tuple[bool, bool, float, str]:
    balance = row.balance
    return not row.has_ended, balance is None, -(balance or 0.0), row.key
