"""What a sweep leaves in MLflow, in a real sqlite store, and what is read back from it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from krona.errors import KronaError
from tune.names import SweepRun, artifact_root, best_scores, image_key, resolve_tracking_uri
from tune.records.plots import parallel_coordinates
from tune.records.ranking import best, rank
from tune.records.table import ranking_table
from tune.records.tracking import Tracker
from tune.search.searcher import Stop
from tune.sweep.callback import RunStates

SETTINGS = {"a1": 4, "a2": 64, "learning_rate": 5e-4, "steps": 20, "targets": "qkvo"}
SETTINGS |= {"init": "kaiming", "seed": 0}
WHITE = Image.new("RGB", (32, 32), "white")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests here: making its tables takes seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def tracker(folder: Path) -> Tracker:
    return Tracker(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def client(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracker.uri)


def start(tracker: Tracker, subject: str, name: str = "one") -> SweepRun:
    return tracker.start_sweep(subject, name, params={"base": "toyland"}, tags={"version.x": "1"})


def adapter_file(folder: Path) -> Path:
    path = folder / "adapter.safetensors"
    save_file({"A": np.ones((2, 2))}, path, metadata={"krona": json.dumps({"steps": 20})})
    return path


def score(tracker: Tracker, sweep: SweepRun, key: str, balance: float, state: str) -> str:
    run_id = tracker.trial_run(sweep, key, SETTINGS)
    told = {"balance": balance, "best_balance": balance, "best_step": 20, "num_params": 1536}
    tracker.log_report(run_id, 20, told)
    tracker.end(run_id, state)
    return run_id


def test_a_trial_is_a_child_run_with_all_settings_and_is_found_again(tracker, client):
    sweep = start(tracker, "child")
    run_id = tracker.trial_run(sweep, "003", SETTINGS)
    assert tracker.trial_run(sweep, "003", SETTINGS) == run_id
    run = client.get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == sweep.parent_id
    assert run.data.tags["tune_trial_id"] == "003"
    assert run.data.tags["version.x"] == "1"
    expected = {name: str(value) for name, value in SETTINGS.items()}
    assert run.data.params == expected | {"base": "toyland"}


def start_again(tracker: Tracker, subject: str, **options: Any) -> SweepRun:
    return tracker.start_sweep(subject, "one", params={"base": "sdxl"}, tags={}, **options)


def test_a_new_sweep_is_not_recorded_onto_an_older_one_of_its_name(tracker):
    sweep = start(tracker, "again")
    tracker.trial_run(sweep, "000", SETTINGS)
    with pytest.raises(KronaError, match=r"'one' of again is recorded .* another --name"):
        start_again(tracker, "again")
    assert start_again(tracker, "again", is_resumed=True).parent_id == sweep.parent_id


def test_a_sweep_that_failed_before_its_first_trial_starts_again_with_new_settings(tracker, client):
    failed = start(tracker, "corrected")
    tracker.end(failed.parent_id, "failed")
    sweep = start_again(tracker, "corrected")
    assert client.get_run(sweep.parent_id).data.params == {"base": "sdxl"}
    assert tracker.newest_sweep("corrected").run_id == sweep.parent_id != failed.parent_id


def test_curves_keep_their_steps_and_images_make_a_grid(tracker, client, folder):
    run_id = tracker.trial_run(start(tracker, "curves"), "000", SETTINGS)
    tracker.log_report(run_id, 10, {"balance": 0.25}, [("a_sks_toy", WHITE)])
    tracker.log_report(run_id, 20, {"balance": 0.5}, [("a_sks_toy", WHITE)])
    history = client.get_metric_history(run_id, "balance")
    assert [(point.step, point.value) for point in history] == [(10, 0.25), (20, 0.5)]
    names = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
    assert {name.split("+timestamp")[0] for name in names} == {
        "a_sks_toy+step+10",
        "a_sks_toy+step+20",
    }
    assert client.get_run(run_id).info.artifact_uri.startswith((folder / "mlartifacts").as_uri())


def test_prompts_of_any_letters_and_length_have_images_of_their_own(tracker):
    assert image_key("a sks toy on the beach") == "a_sks_toy_on_the_beach"
    long = "a sks toy " + "very " * 80
    prompts = ["ein sks Spielzeug im Schnee", "große Füße", "grüne Füße", "犬", "猫"]
    prompts += [long + "red", long + "blue", "a sks toy", "a sks toy!", "a sks_toy"]
    run_id = tracker.trial_run(start(tracker, "letters"), "000", SETTINGS)
    tracker.log_report(run_id, 1, {"balance": 0.5}, [(image_key(p), WHITE) for p in prompts])
    assert set(tracker.best_images(run_id)) == {image_key(p) for p in prompts}
    assert len({image_key(p) for p in prompts}) == len(prompts)


def test_images_and_scores_are_those_of_the_best_evaluation(tracker):
    run_id = tracker.trial_run(start(tracker, "best"), "000", SETTINGS)
    for step, balance, colour in ((10, 0.7, "red"), (20, 0.6, "blue")):
        told = {"balance": balance, "clip_t": balance}
        if step == 10:
            told |= best_scores(told)
        told |= {"best_balance": 0.7, "best_step": 10}
        tracker.log_report(run_id, step, told, [("a_sks_toy", Image.new("RGB", (8, 8), colour))])
    (image,) = tracker.best_images(run_id).values()
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert tracker.scores(run_id) == {"balance": 0.7, "clip_t": 0.7}


def test_adapter_comes_back_byte_for_byte_with_a_readable_manifest(tracker, client, tmp_path):
    run_id = tracker.trial_run(start(tracker, "adapters"), "000", SETTINGS)
    path = adapter_file(tmp_path)
    tracker.log_adapter(run_id, path)
    (tmp_path / "back").mkdir()
    assert tracker.download_adapter(run_id, tmp_path / "back").read_bytes() == path.read_bytes()
    manifest = client.download_artifacts(run_id, "adapter/manifest.json", str(tmp_path / "back"))
    assert json.loads(Path(manifest).read_text()) == {"steps": 20}


def test_an_unknown_run_is_named_in_the_error(tracker):
    with pytest.raises(KronaError, match="no adapter in run 'abc'"):
        tracker.download_adapter("abc")


def test_a_failure_stands_in_full_as_artifact_and_short_as_tag(tracker, client, tmp_path):
    run_id = tracker.trial_run(start(tracker, "failure"), "000", SETTINGS)
    tracker.log_failure(run_id, "Traceback\n  line\nRuntimeError: no memory\n")
    tracker.end(run_id, "failed")
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "RuntimeError: no memory")
    text = client.download_artifacts(run_id, "failure.txt", str(tmp_path))
    assert Path(text).read_text().startswith("Traceback")


def test_champion_is_a_model_version_without_pickle(tracker, client, tmp_path):
    sweep = start(tracker, "champion")
    path = adapter_file(tmp_path)
    for key, balance in (("000", 0.4), ("001", 0.6)):
        run_id = score(tracker, sweep, key, balance, "finished")
        tracker.log_adapter(run_id, path)
        tracker.register_champion("champion", run_id, path, balance)
    version = client.get_model_version_by_alias("krona-champion", "champion")
    assert (int(version.version), version.run_id) == (2, run_id)
    model_id = version.source.removeprefix("models:/")
    assert [file.path for file in client.list_logged_model_artifacts(model_id)] == [
        "adapter.safetensors"
    ]
    (tmp_path / "back").mkdir()
    back = tracker.download_adapter("krona-champion@champion", tmp_path / "back")
    assert back.read_bytes() == path.read_bytes()


def test_two_sweeps_share_a_store_without_mixing(tracker):
    sweeps = {name: start(tracker, "shared", name) for name in ("one", "two")}
    for name, sweep in sweeps.items():
        score(tracker, sweep, "000", {"one": 0.1, "two": 0.2}[name], "finished")
    rows = {name: rank(tracker, sweep.parent_id) for name, sweep in sweeps.items()}
    assert [row.balance for row in rows["one"]] == [0.1]
    assert [row.balance for row in rows["two"]] == [0.2]
    newest = tracker.newest_sweep("shared")
    assert (newest.name, newest.subject) == ("two", "shared")
    assert newest.run_id == sweeps["two"].parent_id


def test_a_run_cut_off_before_its_settings_were_written_gets_them_later(tracker, client):
    sweep = start(tracker, "cut off")
    cut_off = {"mlflow.parentRunId": sweep.parent_id, "tune_trial_id": "000"}
    run = client.create_run(sweep.experiment_id, tags=cut_off)
    assert rank(tracker, sweep.parent_id) == []
    assert tracker.trial_run(sweep, "000", SETTINGS) == run.info.run_id
    (row,) = rank(tracker, sweep.parent_id)
    assert (row.a1, row.state) == (4, "running")


def test_a_resumed_trial_runs_until_it_ends_again(tracker):
    sweep = start(tracker, "resumed")
    run_id = tracker.trial_run(sweep, "000", SETTINGS)
    states = []
    for state in ("stopped", "finished"):
        tracker.trial_run(sweep, "000", SETTINGS)
        states += [trial.state for trial in tracker.trials(sweep.parent_id)]
        tracker.end(run_id, state)
        states += [trial.state for trial in tracker.trials(sweep.parent_id)]
    assert states == ["running", "stopped", "running", "finished"]


def test_a_trial_that_never_started_is_a_failed_run(tracker, monkeypatch):
    monkeypatch.setattr("tune.sweep.callback.ray.get", lambda result: result)
    sweep = start(tracker, "no actor")
    states = RunStates(tracker, sweep, MagicMock(), Stop())
    config = {"number": 3, "settings": SETTINGS}
    states.on_trial_error(0, [], SimpleNamespace(config=config))
    (row,) = rank(tracker, sweep.parent_id)
    assert (row.key, row.state) == ("003", "failed")


def test_a_pruned_trials_run_says_why(tracker):
    sweep = start(tracker, "pruned")
    states = RunStates(tracker, sweep, MagicMock(), Stop())
    config = {"number": 3, "settings": SETTINGS, "pruned": "best balance 0.1 below 0.2"}
    states.on_trial_complete(0, [], SimpleNamespace(config=config, last_result={"step": 5}))
    (trial,) = tracker.trials(sweep.parent_id)
    assert (trial.state, trial.tags["pruned"]) == ("pruned", "best balance 0.1 below 0.2")


@pytest.mark.parametrize("uri", ["{}/mlruns", "sqlite:///{}/notes.txt", "ftp://store"])
def test_what_is_no_store_is_refused_with_what_is_one(uri, tmp_path):
    (tmp_path / "notes.txt").write_text("this is no database\n" * 99)
    with pytest.raises(KronaError, match=r"cannot be opened; .* sqlite:///mlflow\.db"):
        Tracker(uri.format(tmp_path))


@pytest.mark.parametrize("subject", ["nobody", "o'neil", "a/b.c%"])
def test_no_sweep_yet_is_said_so(tracker, subject):
    with pytest.raises(KronaError, match=f"no sweep of {subject}"):
        tracker.newest_sweep(subject)


def test_a_subject_is_its_name_and_no_pattern(tracker):
    start(tracker, "my-dog")
    with pytest.raises(KronaError, match="no sweep of my_dog"):
        tracker.newest_sweep("my_dog")


def test_a_subject_of_any_letters_gets_a_champion(tracker, tmp_path):
    sweep = start(tracker, "Müsli 2_b-c", "Müsli 2")
    run_id = score(tracker, sweep, "000", 0.5, "finished")
    tracker.register_champion("Müsli 2_b-c", run_id, adapter_file(tmp_path), 0.5)
    assert tracker.newest_sweep("Müsli 2_b-c").run_id == sweep.parent_id
    tracker.log_adapter(run_id, adapter_file(tmp_path))
    assert tracker.download_adapter("krona-Müsli 2_b-c@champion").exists()


def test_ranking_puts_the_best_evaluation_on_top_and_failed_trials_last(tracker, tmp_path):
    sweep = start(tracker, "ranking")
    score(tracker, sweep, "000", 0.4, "finished")
    score(tracker, sweep, "001", 0.9, "pruned")
    score(tracker, sweep, "002", 0.6, "finished")
    tracker.end(tracker.trial_run(sweep, "003", SETTINGS), "failed")
    rows = rank(tracker, sweep.parent_id)
    assert [row.key for row in rows] == ["001", "002", "000", "003"]
    champion = best(rows)
    assert champion is not None
    assert (champion.key, champion.num_params, champion.balance) == ("001", 1536, 0.9)
    console = Console(record=True, width=160)
    console.print(ranking_table(rows))
    shown = [line.split()[0] for line in console.export_text().splitlines() if "qkvo" in line]
    assert shown == ["001", "002", "000", "003"]
    with Image.open(parallel_coordinates(rows, tmp_path / "plot.png")) as plot:
        assert plot.width > 800


def test_the_plot_of_a_sweep_without_scores_is_drawn_all_the_same(tmp_path):
    assert parallel_coordinates([], tmp_path / "plot.png").exists()


def test_store_of_a_relative_path_is_the_same_from_every_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_root() == tmp_path / "mlartifacts"
    assert resolve_tracking_uri("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert resolve_tracking_uri() == f"sqlite:///{tmp_path}/other.db"
