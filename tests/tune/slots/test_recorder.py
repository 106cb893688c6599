"""Records written beside the next steps, into a real MLflow store that is held up or full."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import standin
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file
from tiny import tiny_config

from tune.config.folder import open_folder
from tune.config.trial import Choices, ExperimentConfig
from tune.names import SweepRun
from tune.records.tracking import Tracker
from tune.search.searcher import Stop
from tune.slots.broker import Job
from tune.slots.plan import Plan, SlotConfig
from tune.slots.recorder import Recorder
from tune.slots.slot import Slot
from tune.sweep.run import _Sweep

SOON_S = 10.0
A_MOMENT_S = 0.3
SETTINGS = {"a1": 8, "a2": 32, "learning_rate": 5e-3, "steps": 10}
SETTINGS |= {"targets": "qkvo", "init": "kaiming"}
IMAGES = (("a_sks_toy", Image.new("RGB", (32, 32))),)


class HeldTracker(Tracker):
    """A store whose reports wait for the gate of their (run, step), where they have one."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.gates: dict[tuple[str, int], threading.Event] = {}
        self.written: list[tuple[str, int]] = []

    def log_report(self, run_id: str, step: int, *report: Any) -> None:
        gate = self.gates.get((run_id, step))
        if gate is not None and not gate.wait(SOON_S):
            raise TimeoutError("nobody went on while this was written")
        super().log_report(run_id, step, *report)
        self.written.append((run_id, step))

    def hold(self, run_id: str, step: int) -> threading.Event:
        return self.gates.setdefault((run_id, step), threading.Event())


class FullTracker(Tracker):
    """A store without room for the first evaluation of trial 000."""

    def log_report(self, run_id: str, step: int, *report: Any) -> None:
        if step == 5 and self._client.get_run(run_id).data.tags["tune_trial_id"] == "000":
            raise OSError("no space left")
        super().log_report(run_id, step, *report)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests here: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(uri: str) -> HeldTracker:
    return HeldTracker(uri)


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def sweep_run(tracker: Tracker, request: pytest.FixtureRequest) -> SweepRun:
    return tracker.start_sweep("monster", request.node.name[:80], params={}, tags={})


@pytest.fixture
def run_ids(tracker: Tracker, sweep_run: SweepRun) -> list[str]:
    return [tracker.trial_run(sweep_run, key, SETTINGS) for key in ("000", "001")]


def report(step: int, images: Any = ()) -> standin.Report:
    return standin.Report(
        step=step, metrics={"train_loss": 1 / step}, images=images, is_evaluation=bool(images)
    )


def adapter_file(folder: Path, value: int) -> Path:
    path = folder / "adapter.safetensors"
    save_file({"A": np.full((2, 2), value)}, path, metadata={"krona": f'{{"steps": {value}}}'})
    return path


def steps(client: MlflowClient, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "train_loss")]


def beside(call: Callable[[], None]) -> threading.Event:
    """Start a call in a thread of its own. Returns what is set when it has come back."""
    is_back = threading.Event()
    threading.Thread(target=lambda: (call(), is_back.set()), daemon=True).start()
    return is_back


def test_the_caller_goes_on_while_a_report_is_written(tracker, client, run_ids):
    gate = tracker.hold(run_ids[0], 1)
    with Recorder(tracker) as recorder:
        recorder.log_report(run_ids[0], report(1, IMAGES))
        assert steps(client, run_ids[0]) == []
        gate.set()
        recorder.deliver(run_ids[0])
        assert steps(client, run_ids[0]) == [1]
        assert set(tracker.best_images(run_ids[0])) == {"a_sks_toy"}


def test_records_of_all_trials_are_written_in_the_order_in_which_they_came(tracker, run_ids):
    one, two = run_ids
    gate = tracker.hold(one, 1)
    with Recorder(tracker) as recorder:
        for step in (1, 2):
            recorder.log_report(one, report(step))
            recorder.log_report(two, report(step))
        assert not beside(lambda: recorder.deliver(two)).wait(A_MOMENT_S)
        assert tracker.written == []
        gate.set()
    assert tracker.written == [(one, 1), (two, 1), (one, 2), (two, 2)]


def test_an_evaluation_waits_for_the_one_before_and_plain_reports_do_not(
    tracker, run_ids, tmp_path
):
    one, two = run_ids
    gate, adapter = tracker.hold(one, 5), adapter_file(tmp_path, 5)
    with Recorder(tracker) as recorder:
        recorder.log_report(one, report(5, IMAGES), adapter)
        recorder.log_report(one, report(6))
        recorder.log_report(two, report(5, IMAGES), adapter)
        second = beside(lambda: recorder.log_report(one, report(10, IMAGES), adapter))
        assert not second.wait(A_MOMENT_S)
        gate.set()
        assert second.wait(SOON_S)


def test_an_adapter_is_kept_as_it_was_at_its_evaluation(tracker, client, run_ids, tmp_path):
    gate = tracker.hold(run_ids[0], 5)
    with Recorder(tracker) as recorder:
        recorder.log_report(run_ids[0], report(5), adapter_file(tmp_path, 5))
        adapter_file(tmp_path, 10)
        gate.set()
    (tmp_path / "back").mkdir()
    back = tracker.download_adapter(run_ids[0], tmp_path / "back")
    assert load_file(back)["A"].tolist() == [[5, 5], [5, 5]]
    manifest = client.download_artifacts(run_ids[0], "adapter/manifest.json", str(tmp_path))
    assert Path(manifest).read_text().split() == ["{", '"steps":', "5", "}"]


@pytest.mark.parametrize("is_evaluation", [False, True])
def test_an_error_is_raised_at_the_next_report_of_its_own_trial(
    uri, run_ids, tmp_path, is_evaluation
):
    one, two = run_ids
    adapter = adapter_file(tmp_path, 6) if is_evaluation else None
    with Recorder(FullTracker(uri)) as recorder:
        recorder.log_report(one, report(5))
        recorder.log_report(two, report(5))
        recorder.deliver(two)
        recorder.log_report(two, report(6))
        with pytest.raises(OSError, match="no space left"):
            recorder.log_report(one, report(6), adapter)
        recorder.log_failure(one, "OSError: no space left")
        recorder.deliver(two)


def test_an_error_is_raised_at_the_end_of_its_trial_at_the_latest(uri, run_ids):
    with Recorder(FullTracker(uri)) as recorder:
        recorder.log_report(run_ids[0], report(5))
        with pytest.raises(OSError, match="no space left"):
            recorder.deliver(run_ids[0])


def test_nothing_that_waits_is_lost_when_an_exception_ends_the_slot(tracker, client, run_ids):
    gate = tracker.hold(run_ids[0], 1)

    def crash() -> None:
        with contextlib.suppress(RuntimeError), Recorder(tracker) as recorder:
            for step in (1, 2, 3):
                recorder.log_report(run_ids[0], report(step))
            raise RuntimeError

    is_over = beside(crash)
    assert not is_over.wait(A_MOMENT_S)
    gate.set()
    assert is_over.wait(SOON_S)
    assert steps(client, run_ids[0]) == [1, 2, 3]


def test_a_record_that_arrives_after_the_driver_closed_its_run_leaves_it_closed(
    tracker, client, run_ids, tmp_path
):
    run_id = run_ids[0]
    gate = tracker.hold(run_id, 5)
    with Recorder(tracker) as recorder:
        recorder.log_report(run_id, report(5, IMAGES), adapter_file(tmp_path, 5))
        tracker.end(run_id, "pruned")
        ended = client.get_run(run_id).info
        gate.set()
        recorder.deliver(run_id)
    assert steps(client, run_id) == [5]
    assert tracker.download_adapter(run_id).exists()
    now = client.get_run(run_id)
    assert (now.info.status, now.info.end_time) == ("FINISHED", ended.end_time)
    assert now.data.tags["krona.state"] == "pruned"


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

    def run(store: Tracker = tracker, pruned_at: int | None = None) -> OneTrial:
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
        Slot(config, standin, resident, 0, 1).run()
        return broker

    return run


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
    config = tiny_config(tmp_path, subject="monster")
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
