"""Records written beside the next steps, into a real MLflow store that is held up or full."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standin
from mlflow import MlflowClient
from safetensors.numpy import load_file
from stores import IMAGES, SOON_S, FullTracker, adapter_file

from tune.slots.recorder import Recorder

A_MOMENT_S = 0.3


def report(step: int, images: Any = ()) -> standin.Report:
    return standin.Report(
        step=step, metrics={"train_loss": 1 / step}, images=images, is_evaluation=bool(images)
    )


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
