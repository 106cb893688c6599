"""Closes each trial's MLflow run when Tune is done with the trial, whatever became of its slot."""

from typing import Any

import ray
from ray.tune import Callback

from tune.names import PRUNED_TAG, SweepRun, is_final
from tune.records.tracking import Tracker
from tune.search.searcher import Stop
from tune.slots.trial import trial_key


class RunStates(Callback):  # type: ignore[misc]
    """Sets the final state of child runs: finished, pruned, failed, or stopped with the sweep."""

    def __init__(self, tracker: Tracker, sweep: SweepRun, broker: Any, stop: Stop) -> None:
        self._tracker, self._sweep, self._broker, self._stop = tracker, sweep, broker, stop
        self._open: dict[str, dict[str, Any]] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Remember the trial as open."""
        self._open[trial_key(trial.config)] = trial.config

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial reached its last step, or ASHA stopped it on the way."""
        self._end(trial.config, "finished" if is_final(trial.last_result) else "pruned")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial failed; if its own process died, its job would go on without this cancel."""
        ray.get(self._broker.cancel.remote(trial_key(trial.config)))
        self._end(trial.config, "stopped" if self._stop.requested else "failed")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """What is still open was stopped; a resumed sweep continues it."""
        for config in list(self._open.values()):
            self._end(config, "stopped")

    def _end(self, config: dict[str, Any], state: str) -> None:
        key = trial_key(config)
        self._open.pop(key, None)  # a trial whose actor could not be created never started
        run_id = self._tracker.trial_run(self._sweep, key, config["settings"])
        if PRUNED_TAG in config:
            self._tracker.tag(run_id, PRUNED_TAG, config[PRUNED_TAG])
        self._tracker.end(run_id, state)

    def get_state(self) -> None:
        """Nothing: on a restore the runs are looked up again by their tag."""
        return
