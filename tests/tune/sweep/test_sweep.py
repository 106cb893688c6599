"""Whole sweeps through real Ray, Optuna and MLflow's sqlite store, over the stand-in experiment."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import ray
from mlflow import MlflowClient
from optuna.trial import TrialState
from rich.console import Console
from standin import final_score
from tiny import tiny_config

from krona.errors import KronaError
from tune.config.sweep import SweepConfig, to_json
from tune.sweep.run import SweepResult, print_summary, run_sweep

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow store that the sweeps here share."""
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def swept(folder: Path, ray_cluster: None) -> SweepResult:
    """A complete sweep, which several tests look at."""
    return sweep(tiny_config(folder, name="swept", trials=10))


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def sweep(config: SweepConfig) -> SweepResult:
    return run_sweep(config, Console(quiet=True))


def study(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(
        study_name="sweep", storage=f"sqlite:///{folder}/krona-runs/{name}/optuna.db"
    )


def starts(folder: Path, name: str, key: str) -> list[tuple[int, int]]:
    """(first step, process id) of each time a trial was started."""
    path = folder / "krona-runs" / name / "trials" / key / "starts.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state_step(folder: Path, name: str, key: str) -> int:
    path = folder / "krona-runs" / name / "trials" / key / "state.txt"
    text = path.read_text() if path.exists() else ""
    return int(text or 0)


def test_every_trial_is_a_run_whose_last_score_is_what_its_settings_earn(swept, client):
    assert swept.is_complete
    assert len(swept.rows) == 10
    for row in swept.rows:
        if row.state == "finished":
            expected = final_score({"a1": row.a1, "a2": row.a2, "learning_rate": row.learning_rate})
            assert row.scores["balance"] == pytest.approx(expected)
            history = client.get_metric_history(row.run_id, "train_loss")
            assert [point.step for point in history] == list(range(1, row.steps + 1))


def test_champion_is_the_best_finished_trial_and_beats_the_papers_default(swept, client):
    finished = {row.run_id: row.balance for row in swept.rows if row.state == "finished"}
    assert swept.best is not None
    assert swept.best.balance == max(finished.values())
    default = next(row for row in swept.rows if row.is_paper_default)
    assert (default.a1, default.a2, default.learning_rate, default.steps) == (64, 8, 1e-3, 20)
    assert default.state == "finished"
    assert swept.best.balance > default.balance
    version = client.get_model_version_by_alias("krona-monster", "champion")
    assert version.run_id == swept.best.run_id


def test_pruned_trials_free_their_slot_at_the_evaluation_that_prunes_them(swept, client):
    pruned = [row for row in swept.rows if row.state == "pruned"]
    assert pruned
    for row in pruned:
        scored = client.get_metric_history(row.run_id, "balance")
        trained = client.get_metric_history(row.run_id, "train_loss")
        assert trained[-1].step == scored[-1].step < row.steps


def test_study_and_runs_tell_the_same_story(swept, folder):
    told = {f"{trial.number:03d}": trial.state for trial in study(folder, "swept").trials}
    names = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    assert told == {row.key: names[row.state] for row in swept.rows}


def test_parent_run_shows_the_sweep(swept, client, tmp_path):
    parent = client.get_run(swept.parent_id)
    assert parent.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(swept.parent_id)} >= {
        "search_space.json",
        "parallel_coordinates.png",
        "contact_sheet.png",
        "report.html",
    }
    path = client.download_artifacts(swept.parent_id, "search_space.json", str(tmp_path))
    assert json.loads(Path(path).read_text())["learning_rate"] == [1e-4, 3e-2]
    assert parent.data.tags["version.torch"]


def test_last_line_names_the_best_run(swept):
    console = Console(record=True, width=160)
    print_summary(swept, console)
    assert console.export_text().splitlines()[-1] == f"best run: {swept.best.run_id}"


def test_nothing_is_left_on_the_cluster(swept):
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    groups = ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} == {"REMOVED"}


def test_a_trial_that_fails_or_diverges_fails_alone_and_says_why(swept, folder, client, tmp_path):
    factors = ((4, 64), (8, 32), (16, 16))
    config = tiny_config(folder, name="failing", identifier="fails", factors=factors, trials=8)
    result = sweep(config)
    assert result.is_complete
    expected = {4: "failed", 16: "failed"}
    assert {row.a1 for row in result.rows} == {4, 8, 16}
    for row in result.rows:
        assert row.state == expected.get(row.a1, row.state)
        assert (row.failure is None) == (row.a1 == 8)
    said = {row.a1: row.failure for row in result.rows}
    assert said[4] == "RuntimeError: this pair always fails"
    assert said[16] == "balance=nan is not a score; training has diverged"
    broken = next(row for row in result.rows if row.a1 == 4)
    text = client.download_artifacts(broken.run_id, "failure.txt", str(tmp_path))
    assert "standin.py" in Path(text).read_text()
    assert client.get_run(broken.run_id).info.status == "FAILED"
    told = {trial.number: trial.state for trial in study(folder, "failing").trials}
    failed = {number for number, state in told.items() if state is TrialState.FAIL}
    assert failed == {int(row.key) for row in result.rows if row.a1 != 8}


def test_settings_that_do_not_fit_fail_once_and_are_not_proposed_again(swept, folder):
    told = {"factors": ((8, 32), (64, 8)), "targets": ("qkvo",), "trials": 6}
    result = sweep(tiny_config(folder, name="full", identifier="too large", **told))
    assert result.is_complete
    (too_large,) = [row for row in result.rows if row.a1 == 64]
    assert (too_large.state, len(result.rows)) == ("failed", 6)
    assert too_large.failure == "this pair needs more memory than there is"
    states = [trial.state for trial in study(folder, "full").trials]
    assert TrialState.FAIL not in states
    assert len(states) >= 6


def together(folder: Path, name: str) -> list[list[int]]:
    """How many trials were advanced together at each step, of each trial."""
    paths = (folder / "krona-runs" / name / "trials").glob("*/together.txt")
    return [[int(line) for line in path.read_text().split()] for path in paths]


def test_packed_trials_enter_as_others_leave_and_score_as_alone(swept, folder):
    config = tiny_config(folder, name="packed", identifier="in company", trials=10)
    result = sweep(replace(config, pack=4))
    assert result.is_complete
    assert {row.state for row in result.rows} <= {"finished", "pruned"}
    for row in result.rows:
        if row.state == "finished":
            settings = {"a1": row.a1, "a2": row.a2, "learning_rate": row.learning_rate}
            assert row.scores["balance"] == pytest.approx(final_score(settings))
    sizes = together(folder, "packed")
    assert max(map(max, sizes)) == 4
    assert sum(1 for trial in sizes if 4 in trial) > 4


def test_where_a_pack_fails_together_its_trials_go_on_alone(folder):
    config = tiny_config(folder, name="apart", identifier="fails together", trials=3)
    result = sweep(replace(config, pack=3))
    assert result.is_complete
    assert {row.state for row in result.rows} <= {"finished", "pruned"}
    assert {size for sizes in together(folder, "apart") for size in sizes} == {1}


def test_an_automatic_pack_is_as_large_as_the_slot_measures(folder):
    config = tiny_config(folder, name="auto", identifier="in company of three", trials=6)
    assert sweep(replace(config, pack="auto")).is_complete
    assert max(map(max, together(folder, "auto"))) == 3


def test_a_pack_short_of_memory_shrinks_and_loses_no_step(folder):
    config = tiny_config(folder, name="shrunk", identifier="short of memory", trials=6)
    result = sweep(replace(config, pack=4))
    assert result.is_complete
    assert {row.state for row in result.rows} <= {"finished", "pruned"}
    assert max(map(max, together(folder, "shrunk"))) == 2
    assert all(len(starts(folder, "shrunk", row.key)) == 1 for row in result.rows)


def test_dead_slot_then_ctrl_c_then_resume_lose_only_steps_since_the_last_state(folder):
    config = tiny_config(folder, name="unlucky", identifier="slow", trials=2)

    def misfortunes() -> None:
        wait_for(lambda: state_step(folder, "unlucky", "000") >= 5)
        os.kill(starts(folder, "unlucky", "000")[0][1], signal.SIGKILL)
        wait_for(lambda: state_step(folder, "unlucky", "001") >= 5)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=misfortunes)
    thread.start()
    result = sweep(config)
    thread.join()
    assert not result.is_complete
    assert {row.key: row.state for row in result.rows} == {"000": "finished", "001": "stopped"}
    assert result.resume_command.startswith("krona sweep --resume --name unlucky")
    assert [first % 5 for first, _ in starts(folder, "unlucky", "000")] == [1, 1]
    assert starts(folder, "unlucky", "000")[1][0] > 1

    resumed = sweep(tiny_config(folder, name="unlucky", resume=True, trials=2))
    assert resumed.is_complete
    assert {row.key: row.state for row in resumed.rows} == {"000": "finished", "001": "finished"}
    assert len(starts(folder, "unlucky", "000")) == 2
    assert starts(folder, "unlucky", "001")[1][0] > 1
    assert {row.run_id for row in resumed.rows} == {row.run_id for row in result.rows}


def test_resume_after_the_driver_was_killed_repeats_no_finished_trial(folder, tmp_path):
    config = tiny_config(folder, name="killed", identifier="slow", trials=3)
    (tmp_path / "config.json").write_text(to_json(config))
    script = (
        "import sys, pathlib, tune.config.sweep, tune.sweep.run;"
        "config = tune.config.sweep.from_json(pathlib.Path(sys.argv[1]).read_text());"
        "tune.sweep.run.run_sweep(config)"
    )
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "config.json")],
        env={**os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"},
    )
    wait_for(lambda: state_step(folder, "killed", "001") >= 5)
    driver.kill()
    driver.wait()

    result = sweep(tiny_config(folder, name="killed", resume=True, trials=3))
    assert result.is_complete
    assert [row.key for row in sorted(result.rows, key=lambda row: row.key)] == [
        "000",
        "001",
        "002",
    ]
    assert len(starts(folder, "killed", "000")) == 1
    assert [first for first, _ in starts(folder, "killed", "001")][1] > 1
    assert all(trial.state.is_finished() for trial in study(folder, "killed").trials)


def test_a_subject_that_cannot_be_loaded_ends_the_sweep_with_its_own_words(folder):
    with pytest.raises(KronaError, match="unknown subject 'nobody'"):
        sweep(tiny_config(folder, name="nobody", subject="nobody"))


def test_a_slot_that_cannot_load_again_ends_the_sweep_and_fails_no_trial(folder, tmp_path):
    config = tiny_config(folder, name="unloadable", identifier="slow", trials=1)
    photos = tmp_path / "photos"
    photos.mkdir()

    def misfortune() -> None:
        wait_for(lambda: state_step(folder, "unloadable", "000") >= 5)
        photos.rmdir()
        os.kill(starts(folder, "unloadable", "000")[0][1], signal.SIGKILL)

    thread = threading.Thread(target=misfortune)
    thread.start()
    with pytest.raises(KronaError, match="no photos in photos"):
        sweep(replace(config, experiment=replace(config.experiment, photos=photos)))
    thread.join()
    assert [trial.state for trial in study(folder, "unloadable").trials] == [TrialState.RUNNING]

    photos.mkdir()
    resumed = sweep(replace(config, resume=True))
    assert resumed.is_complete
    assert [row.state for row in resumed.rows] == ["finished"]
    assert starts(folder, "unloadable", "000")[1][0] > 1
