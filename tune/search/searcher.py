"""The searcher that Tune asks: settings out, results in.

The Optuna study on disk is the sweep's memory. A sweep that is resumed opens it again: trials that
it holds as finished count, those that it holds as running are handed out first and go on.
"""

import math
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune import Stopper
from ray.tune.search.optuna import OptunaSearch

from tune.config.trial import PAPER_STEPS, TrialSettings
from tune.names import BEST, DOES_NOT_FIT, METRIC, PAPER_DEFAULT, TIME, is_final
from tune.search.space import Space

_REFUSED = "refused"
_MOST_REFUSED = 50  # in a row, before the sampler is left to see for itself


class Stop(Stopper):  # type: ignore[misc]
    """Ends the search from outside: a signal, or slots that cannot be kept running."""

    def __init__(self) -> None:
        self.requested = False
        self.error: str | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped by this."""
        return False

    def stop_all(self) -> bool:
        """Whether all are."""
        return self.requested


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """OptunaSearch over a stored study, told no more than what a trial really achieved."""

    def __init__(self, space: Space, database: Path, stop: Stop, *, trials: int, seed: int) -> None:
        self._stop = stop
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
        known = _num_trials(storage)
        sampler = optuna.samplers.TPESampler(
            # Another seed after a resume, or the sampler would draw its first points once more.
            seed=seed + known,
            n_startup_trials=max(4, min(10, trials // 3)),
        )
        super().__init__(
            space, metric=METRIC, mode="max", sampler=sampler, storage=storage, study_name="sweep"
        )
        if not known:
            self.study.enqueue_trial(space.paper_default(), user_attrs={PAPER_DEFAULT: True})
        self._unfinished = self.study.get_trials(states=[TrialState.RUNNING])

    @property
    def study(self) -> optuna.Study:
        """The study on disk."""
        study: optuna.Study = self._ot_study
        return study

    @property
    def num_finished(self) -> int:
        """Trials that will not be run again, of those that were."""
        return sum(
            trial.state.is_finished() and _REFUSED not in trial.user_attrs
            for trial in self.study.trials
        )

    @property
    def best_score(self) -> tuple[float, int] | None:
        """Best score of the trials that have finished, and that trial's number."""
        finished = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        return max(((t.value, t.number) for t in finished if t.value is not None), default=None)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next trial: its number in the study, and its settings.

        What did not fit into memory is not proposed again.
        """
        if self._unfinished:
            frozen = self._unfinished.pop(0)
            self._ot_trials[trial_id] = optuna.Trial(self.study, frozen._trial_id)
        proposed = super().suggest(trial_id)
        for _ in range(_MOST_REFUSED):
            if not self._is_known_not_to_fit(proposed):
                break
            self._refuse(self._ot_trials.pop(trial_id))
            proposed = super().suggest(trial_id)
        # Ray adds the study's own parameters, such as factors_index, to what the space returned.
        settings = {name: proposed[name] for name in TrialSettings.names() if name in proposed}
        trial = self._ot_trials[trial_id]
        is_default = bool(trial.user_attrs.get(PAPER_DEFAULT))
        if is_default:
            settings["steps"] = min(settings["steps"], PAPER_STEPS)
        return {"number": trial.number, "settings": settings, PAPER_DEFAULT: is_default}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note a score at its step; reports between evaluations carry none."""
        value = result.get(METRIC)
        trial = self._ot_trials[trial_id]
        if result.get(DOES_NOT_FIT):
            settings = self._space(optuna.trial.FixedTrial(trial.params))
            trial.set_user_attr(DOES_NOT_FIT, _what_takes_memory(settings))
            trial.set_constraint(DOES_NOT_FIT, 1.0)
        if value is None or not math.isfinite(value) or self._is_told(trial):
            return
        if result[TIME] not in self._frozen(trial).intermediate_values:
            trial.report(value, int(result[TIME]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended: complete with its best score, pruned, or failed.

        One that did not fit into memory counts as pruned: the sampler learns nothing of failures.
        A trial that ends because the sweep does is not told: a resumed sweep continues it.
        """
        trial = self._ot_trials[trial_id]
        if self._is_told(trial) or self._stop.requested:
            return
        value = (result or {}).get(METRIC)
        if DOES_NOT_FIT in trial.user_attrs:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif error or result is None or value is None or not math.isfinite(value):
            self.study.tell(trial, state=TrialState.FAIL)
        elif is_final(result):
            self.study.tell(trial, result.get(BEST, value))
        else:
            self.on_trial_result(trial_id, result)
            self.study.tell(trial, state=TrialState.PRUNED)

    def _is_known_not_to_fit(self, settings: dict[str, Any]) -> bool:
        past = self.study.get_trials(deepcopy=False)
        known = [t.user_attrs[DOES_NOT_FIT] for t in past if DOES_NOT_FIT in t.user_attrs]
        return _what_takes_memory(settings) in known

    def _refuse(self, trial: optuna.Trial) -> None:
        """Tell the study, without running the trial, that it does not fit."""
        trial.set_user_attr(_REFUSED, True)
        trial.set_constraint(DOES_NOT_FIT, 1.0)
        self.study.tell(trial, state=TrialState.PRUNED)

    def _frozen(self, trial: optuna.Trial) -> optuna.trial.FrozenTrial:
        return self.study._storage.get_trial(trial._trial_id)

    def _is_told(self, trial: optuna.Trial) -> bool:
        return self._frozen(trial).state.is_finished()


def _what_takes_memory(settings: dict[str, Any]) -> list[Any]:
    """What of a trial's settings decides how much memory it needs."""
    return [settings[name] for name in ("a1", "a2", "targets")]


def _num_trials(storage: optuna.storages.BaseStorage) -> int:
    return sum(summary.n_trials for summary in optuna.get_all_study_summaries(storage))
