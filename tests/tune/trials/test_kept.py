"""What is kept of a trial: its last state, to resume from, and its best adapter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from short_trials import CONFIG, SETTINGS, assert_bit_equal, factors, run

from krona.exchange.adapter_file import load_adapter
from krona.storage.tensors import read_safetensors
from tune.trials.experiment import ADAPTER_FILE, STATE_FILE, Resident, run_experiment


def test_a_stopped_trial_resumes_bit_for_bit(resident: Resident, tmp_path: Path) -> None:
    run(resident, SETTINGS, tmp_path / "whole")
    reports = run_experiment(resident, SETTINGS, tmp_path / "stopped")
    assert next(reports).step == 2
    reports.close()  # type: ignore[attr-defined]
    rest = run(resident, SETTINGS, tmp_path / "stopped", resume=True)
    assert [report.step for report in rest] == [4]
    assert_bit_equal(factors(tmp_path / "whole"), factors(tmp_path / "stopped"))
    states = [read_safetensors(tmp_path / name / STATE_FILE)[0] for name in ("whole", "stopped")]
    assert_bit_equal(*states)


@pytest.fixture
def judged(resident: Resident, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the evaluations of the trials to come say these balances, in turn."""
    evaluate_each = resident.scorer.evaluate_each

    def judge(*balances: float) -> None:
        said = iter(balances)

        def evaluate(base: Any, adapters: Any) -> Any:
            evaluations = evaluate_each(base, adapters)
            return [
                replace(e, calibrated=e.calibrated | {"balance": next(said)}) for e in evaluations
            ]

        monkeypatch.setattr(resident.scorer, "evaluate_each", evaluate)

    return judge


@pytest.fixture
def often(resident: Resident, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations at every step."""
    monkeypatch.setattr(resident, "config", replace(CONFIG, eval_every=1))


@pytest.mark.usefixtures("often")
def test_the_adapter_of_the_best_evaluation_is_kept(
    resident: Resident, tmp_path: Path, judged: Any
) -> None:
    judged(0.2, 0.7, 0.5, 0.6)
    reports = run(resident, SETTINGS, tmp_path / "whole")
    assert [r.metrics["balance"] for r in reports] == [0.2, 0.7, 0.5, 0.6]
    assert [r.metrics["best_balance"] for r in reports] == [0.2, 0.7, 0.7, 0.7]
    assert [r.metrics["best_step"] for r in reports] == [1, 2, 2, 2]
    assert [(r.is_best, r.is_last) for r in reports] == [
        (True, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    manifest = load_adapter(tmp_path / "whole" / ADAPTER_FILE)[1]
    assert (manifest.steps, manifest.balance) == (2, 0.7)
    judged(0.2, 0.7)
    run(resident, SETTINGS | {"steps": 2}, tmp_path / "short")
    assert_bit_equal(factors(tmp_path / "whole"), factors(tmp_path / "short"))


@pytest.mark.usefixtures("often")
def test_a_resumed_trial_knows_its_best_evaluation(
    resident: Resident, tmp_path: Path, judged: Any
) -> None:
    judged(0.7, 0.5, 0.6, 0.8)
    reports = run_experiment(resident, SETTINGS, tmp_path)
    assert [next(reports).is_best for _ in range(2)] == [True, False]
    reports.close()  # type: ignore[attr-defined]
    rest = run(resident, SETTINGS, tmp_path, resume=True)
    assert [(r.is_best, r.metrics["best_step"]) for r in rest] == [(False, 1), (True, 4)]


def test_a_trial_without_a_better_evaluation_ends_with_its_patience(
    resident: Resident, tmp_path: Path, judged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "config", replace(CONFIG, eval_every=1, patience=2))
    judged(0.5, 0.4, 0.3, 0.9)
    reports = run(resident, SETTINGS, tmp_path)
    assert [(r.step, r.is_last) for r in reports] == [(1, False), (2, False), (3, True)]
    assert load_adapter(tmp_path / ADAPTER_FILE)[1].steps == 1


def test_a_trial_resumed_at_its_end_tells_it_again(resident: Resident, tmp_path: Path) -> None:
    before = run(resident, SETTINGS, tmp_path)[-1]
    (again,) = run(resident, SETTINGS, tmp_path, resume=True)
    assert (again.step, again.metrics["balance"]) == (4, before.metrics["balance"])


def test_a_resumed_trial_goes_on_counting_its_seconds(resident: Resident, tmp_path: Path) -> None:
    reports = run_experiment(resident, SETTINGS, tmp_path)
    before = next(reports).metrics
    reports.close()  # type: ignore[attr-defined]
    (after,) = (report.metrics for report in run(resident, SETTINGS, tmp_path, resume=True))
    for name in ("train_s", "score_s", "wait_s"):
        assert 0 < before[name] < after[name]
