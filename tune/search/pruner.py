"""The pruner that Tune asks: the best scores up to a step in; whether a trial goes on, out."""

from itertools import accumulate
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tune.config.trial import quarter
from tune.names import BEST, PAPER_DEFAULT, PRUNED_TAG, TIME, is_final


class Pruner(ASHAScheduler):  # type: ignore[misc]
    """ASHA with factor 2 from a quarter of the steps: half go there, half of the rest midway.

    The paper's default is never pruned: it is what the others are compared with.
    """

    def __init__(self, study: optuna.Study, *, max_steps: int) -> None:
        super().__init__(
            time_attr=TIME,
            metric=BEST,
            mode="max",
            max_t=max_steps,
            grace_period=quarter(max_steps),
            reduction_factor=2,
            stop_last_trials=False,
        )
        for past in study.trials:
            steps, values = sorted(past.intermediate_values), past.intermediate_values
            best_so_far = accumulate((values[step] for step in steps), max)
            for step, value in zip(steps, best_so_far, strict=True):
                self._brackets[0].on_result(_Past(past.number), step, value)

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        """Let a trial that is resumed under a new Tune id keep its own scores of before."""
        super().on_trial_add(controller, trial)
        past = _Past(trial.config["number"]).trial_id
        for _, recorded in self._brackets[0]._rungs:
            if past in recorded:
                recorded[trial.trial_id] = recorded.pop(past)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue, or stop a trial whose score is in the lower half at this step.

        A stopped trial's config says why, for whoever closes its run.
        """
        decision: str = super().on_trial_result(controller, trial, result)
        if trial.config[PAPER_DEFAULT] or is_final(result):
            decision = TrialScheduler.CONTINUE
        if decision == TrialScheduler.STOP:
            trial.config[PRUNED_TAG] = self._reason(trial.trial_id, result)
        return decision

    def _reason(self, trial_id: str, result: dict[str, Any]) -> str:
        """What the trial was compared with, in the rung that it has just entered."""
        bracket = self._trial_info[trial_id]
        rung, scores = next(rung for rung in bracket._rungs if trial_id in rung[1])
        before = {other: score for other, score in scores.items() if other != trial_id}
        return (
            f"best balance {result[BEST]:.3f} below {bracket.cutoff(before):.3f}, the median at "
            f"step {rung} of the {len(before)} before it"
        )


class _Past:
    """A trial of an earlier session, as the rungs know trials."""

    def __init__(self, number: int) -> None:
        self.trial_id = f"past-{number}"
