"""What the terminal shows while a sweep runs, with time set by hand."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from tune.sweep.progress import Progress

SETTINGS = {"a1": 4, "a2": 64, "learning_rate": 5e-4, "steps": 20, "targets": "kv"}
SETTINGS |= {"init": "normal"}


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr("tune.sweep.progress.time.monotonic", lambda: now.s)
    return now


def trial(number: int, **last_result: object) -> SimpleNamespace:
    config = {"number": number, "settings": SETTINGS}
    return SimpleNamespace(config=config, last_result=last_result, error_file=None)


def run_trial(progress: Progress, number: int, clock: SimpleNamespace, **result: object) -> None:
    """A trial that takes ten seconds from its first report to its last."""
    ended = trial(number, **result)
    progress.on_trial_start(0, [], ended)
    progress.on_trial_result(0, [], ended, {"step": 1})
    clock.s += 10.0
    best = {"best_balance": result["balance"]}
    progress.on_trial_result(0, [], ended, result | best)
    progress.on_trial_complete(0, [], ended)


def test_each_ended_trial_is_one_line_with_the_best_and_the_time_left(clock):
    console = Console(record=True, width=160)
    progress = Progress(console, trials=6, done=2)
    progress.setup()
    clock.s = 100.0  # starting up is not counted
    run_trial(progress, 2, clock, step=20, balance=0.5, is_final=True)
    run_trial(progress, 3, clock, step=5, balance=0.1, is_final=False)
    first, second = console.export_text().splitlines()
    settings = "(4, 64)  lr 5.0e-04  kv  normal"
    best = "best 0.500 (trial 002)"
    assert first == f"[3/6] trial 002 finished  balance 0.500  {settings}  {best}  0:30 left"
    assert (
        second == f"[4/6] trial 003 pruned at step 5  balance 0.100  {settings}  {best}  0:20 left"
    )


def test_live_panel_counts_and_shows_the_running_trials(clock):
    console = Console(record=True, width=120, force_terminal=True)
    progress = Progress(console, trials=4)
    progress.setup()
    running = trial(1)
    progress.on_trial_start(0, [], running)
    progress.on_trial_result(0, [], running, {"step": 5, "balance": 0.25})
    progress.on_trial_result(0, [], running, {"step": 7, "train_loss": 1.0})
    clock.s = 1.0
    progress.on_step_end(0, [])
    progress.on_experiment_end([])
    shown = console.export_text()
    assert "0/4 done, 1 running, 0 pruned" in shown
    assert "step 7/20" in shown
    assert "balance 0.250" in shown


def test_the_panels_last_line_tells_the_best_and_the_time_left_on_80_columns(clock):
    console = Console(record=True, width=80, force_terminal=True)
    progress = Progress(console, trials=4)
    progress.setup()
    run_trial(progress, 0, clock, step=20, balance=0.5, is_final=True)
    progress.on_trial_start(0, [], trial(1))
    progress.on_step_end(0, [])
    progress.on_experiment_end([])
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert "1/4 done, 1 running, 0 pruned  best 0.500 (trial 000)  0:30 left" in lines


RAISED = """Failure # 1 (occurred at 2026-11-28_12-08-03)
Traceback (most recent call last):
  File "slot.py", line 95, in next_report
tune.slots.broker.JobError: {}
"""
TRACEBACK = "Traceback (most recent call last):\n  raise error\nRuntimeError: no [room] for it"


@pytest.mark.parametrize(
    ("error", "said"),
    [(TRACEBACK, "RuntimeError: no [room] for it"), ("a1=3 does not divide 64", None)],
)
def test_the_line_of_a_failed_trial_says_why(clock, tmp_path, error, said):
    console = Console(record=True, width=20)
    failed = trial(1)
    failed.error_file = str(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text(RAISED.format(error))
    progress = Progress(console, trials=2)
    progress.on_trial_start(0, [], failed)
    progress.on_trial_result(0, [], failed, {"step": 4})
    progress.on_trial_error(0, [], failed)
    assert console.export_text() == (
        f"[1/2] trial 001 failed at step 4: {said or error}  (4, 64)  lr 5.0e-04  kv  normal"
        "  0:00 left\n"
    )


def test_on_a_terminal_the_line_of_a_failed_trial_has_its_width(clock, tmp_path):
    console = Console(record=True, width=50, force_terminal=True)
    failed = trial(1)
    failed.error_file = str(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text(RAISED.format("x" * 100))
    Progress(console, trials=2).on_trial_error(0, [], failed)
    assert console.export_text() == f"[1/2] trial 001 failed at step 0: {'x' * 15}…\n"


def test_a_failed_trial_is_counted_as_done(clock):
    progress = Progress(Console(record=True), trials=2)
    progress.on_trial_start(0, [], trial(0))
    progress.on_trial_error(0, [], trial(0))
    progress.on_trial_error(0, [], trial(1))  # its actor could not be created
    assert progress.num_done == 2
