"""A Tune trial: a thin function that has a slot train, and hands on what it reports.

It imports no torch and needs no GPU: its process only waits, pinned to the cluster's head.
"""

from typing import Any

import ray
import ray.tune

from tune.names import PAPER_DEFAULT, SweepRun
from tune.slots.broker import Job

HEAD = {"node:__internal_head__": 0.001}  # every Ray head has this resource


def run_trial(config: dict[str, Any], broker: Any, sweep_run: SweepRun) -> None:
    """Submit the trial that the search proposed; report until it ends or Tune stops it.

    Args:
        config: what StudySearch.suggest returned.
        broker: handle of the Broker actor.
        sweep_run: where the slot records the trial.
    Raises: JobError with the text of what went wrong in the slot.
    """
    key = trial_key(config)
    payload = {name: config[name] for name in ("settings", PAPER_DEFAULT)}
    payload["sweep_run"] = sweep_run
    ray.get(broker.submit.remote(Job(key=key, payload=payload)))
    try:
        while (report := ray.get(broker.next_report.remote(key))) is not None:
            ray.tune.report(report)
    finally:
        ray.get(broker.cancel.remote(key))


def trial_key(config: dict[str, Any]) -> str:
    """Name of a trial's folder and run: its number in the study, the same after a resume."""
    return f"{config['number']:03d}"
