"""What a slot tells the search and when, with its records in a store that is held up or full."""

import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import standin
from rich.console import Console
from stores import IMAGES, SETTINGS, FullTracker, HeldTracker, adapter_file
from tiny import tiny_config

from tune.config.folder import open_folder
from tune.config.trial import Choices, ExperimentConfig
from tune.names import SweepRun
from tune.records.tracking import Tracker
from tune.search.searcher import Stop
from tune.slots.broker import Job
from tune.slots.plan import Plan, SlotConfig
from tune.slots.slot import Slot
from tune.sweep.run import _Sweep


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a broker's method returns is there at once."""
    monkeypatch.setattr("ray.get", lambda result: result)


class Remote:
    """A method as an actor's handle has it."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


class OneTrial:
    """A broker of one trial, and what it was told: (what, step or error, steps in the store)."""

    def __init__(self, tracker: HeldTracker, sweep_run: SweepRun, *, pruned_at: int | None) -> None:
        payload = {"settings": SETTINGS, "paper_default": False, "sweep_run": sweep_run}
        self.jobs: list[Job | None] = [Job(key="000", payload=payload, attempt=1), None]
        self.tracker, self.pruned_at = tracker, pruned_at
        self.told: list[tuple[str, Any, int]] = []
        self.report, self.finish = Remote(self._report), Remote(self._finish)
        self.take = Remote(lambda slot, wait: self.jobs.pop(0))

    def _report(self, job: Job, result: dict[str, Any], wait: bool) -> bool:
        self.told.append(("report", result["step"], len(self.tracker.written)))
        for gate in self.tracker.gates.values():
            gate.set()
        return result["step"] != self.pruned_at

    def _finish(self, job: Job, error: str | None = None) -> None:
        self.told.append(("finish", error, len(self.tracker.written)))


@pytest.fixture
def run_trial(
    no_ray: None,
    tracker: HeldTracker,
    sweep_run: SweepRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., OneTrial]:
    """Have a slot run one trial of the stand-in experiment."""

    def run(store: Tracker = tracker, pruned_at: int | None = None, rank: int = 0) -> OneTrial:
        monkeypatch.setattr("tune.slots.slot.Tracker", lambda uri: store)
        broker = OneTrial(tracker, sweep_run, pruned_at=pruned_at)
        experiment = ExperimentConfig(subject="monster", eval_every=5)
        config = SlotConfig(
            broker=broker,
            experiment=experiment,
            choices=Choices(),
            experiment_module="standin",
            tracking_uri=store.uri,
            folder=tmp_path,
            threads=1,
        )
        resident = standin.Resident.load(experiment, config.choices)
        Slot(config, standin, resident, rank, 1).run()
        return broker

    return run


def test_a_trials_run_says_which_slot_trained_it_on_which_host(run_trial, client, run_ids):
    run_trial(rank=3)
    assert client.get_run(run_ids[0]).data.tags["slot.3"] == platform.node()
    points = client.get_metric_history(run_ids[0], "slot")
    assert [(point.step, point.value) for point in points] == [(n, 3) for n in range(1, 11)]


def test_the_search_hears_of_an_evaluation_while_it_is_recorded(run_trial, tracker, run_ids):
    tracker.hold(run_ids[0], 5)
    broker = run_trial()
    assert ("report", 5, 4) in broker.told
    assert broker.told[-1] == ("finish", None, 10)


def test_the_search_hears_of_the_last_step_once_all_is_recorded(run_trial):
    assert run_trial().told[-2:] == [("report", 10, 10), ("finish", None, 10)]


def test_a_pruned_trial_leaves_once_all_is_recorded(run_trial, tracker, run_ids):
    tracker.hold(run_ids[0], 5)
    assert run_trial(pruned_at=5).told[-2:] == [("report", 5, 4), ("finish", None, 5)]


@pytest.mark.parametrize("pruned_at", [None, 5])
def test_a_trial_whose_record_fails_fails_and_says_why(run_trial, uri, client, run_ids, pruned_at):
    what, error, _ = run_trial(FullTracker(uri), pruned_at=pruned_at).told[-1]
    assert (what, error.splitlines()[-1]) == ("finish", "OSError: no space left")
    assert client.get_run(run_ids[0]).data.tags["failure"] == "OSError: no space left"


@pytest.mark.usefixtures("no_ray")
def test_the_ranking_waits_for_what_slots_still_record(tracker, sweep_run, run_ids, tmp_path):
    config = tiny_config(tmp_path, subject="monster", finalists=0)
    folder, config = open_folder(config)
    (folder.trials / "000").mkdir(parents=True)
    adapter_file(folder.trials / "000", 10)
    tracker.log_report(run_ids[0], 10, {"best_balance": 0.5}, IMAGES)
    for run_id, state in zip(run_ids, ("finished", "pruned"), strict=True):
        tracker.end(run_id, state)
    broker = SimpleNamespace(
        settled=Remote(lambda: tracker.log_report(run_ids[1], 5, {"best_balance": 0.25})),
        submit=Remote(lambda job: None),
        next_report=Remote(lambda key: None),
    )
    plan = Plan(slots=1, gpus_per_slot=0, cpus_per_slot=1)
    sweep = _Sweep(config, folder, plan, broker, Stop(), Console(quiet=True))
    rows = sweep._result(tracker, sweep_run, is_complete=True).rows
    assert [(row.state, row.balance) for row in rows] == [("finished", 0.5), ("pruned", 0.25)]
