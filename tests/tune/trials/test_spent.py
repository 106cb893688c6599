"""A trial's seconds of training, scoring and waiting, by a clock that is set by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tune.trials.spent import Spent, timed

Pass = Callable[[float], None]


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Let seconds pass."""
    now = [100.0]
    monkeypatch.setattr("tune.trials.spent.time.perf_counter", lambda: now[0])
    return lambda seconds: now.append(now.pop() + seconds)


def test_what_is_neither_training_nor_scoring_is_waiting(go_on: Pass) -> None:
    spent = Spent()
    go_on(1)
    with timed("train_s", [spent]):
        go_on(5)
    with timed("score_s", [spent]):
        go_on(3)
    go_on(2)
    assert spent.metrics() == {"train_s": 5, "score_s": 3, "wait_s": 3}


def test_what_two_trials_do_together_is_the_whole_time_of_each(go_on: Pass) -> None:
    one, two = Spent(), Spent()
    with timed("train_s", [one, two]):
        go_on(5)
    with timed("train_s", [one]):
        go_on(2)
    assert one.metrics() == {"train_s": 7, "score_s": 0, "wait_s": 0}
    assert two.metrics() == {"train_s": 5, "score_s": 0, "wait_s": 2}


def test_what_fails_takes_its_time_too(go_on: Pass) -> None:
    spent = Spent()

    def fail() -> None:
        with timed("score_s", [spent]):
            go_on(4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert spent.metrics()["score_s"] == 4


def test_a_resumed_trial_counts_on_from_its_saved_state(go_on: Pass, tmp_path: Path) -> None:
    assert Spent.load(tmp_path).metrics() == {"train_s": 0, "score_s": 0, "wait_s": 0}
    spent = Spent()
    with timed("train_s", [spent]):
        go_on(5)
    go_on(1)
    spent.save(tmp_path)
    go_on(60)
    again = Spent.load(tmp_path)
    go_on(2)
    assert again.metrics() == {"train_s": 5, "score_s": 0, "wait_s": 3}
