"""Trials that are advanced together: their scores, their times, and what does not fit at once."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from short_trials import CONFIG, OTHER, SETTINGS, factors, run

from krona.exchange.adapter_file import load_adapter
from tune.trials.experiment import ADAPTER_FILE, Report, Resident, advance_trials, start_trial


def test_packed_trials_score_as_each_by_itself(tmp_path: Path) -> None:
    resident = Resident.load(replace(CONFIG, precision="fp32"))  # bf16 rounds more than is allowed
    settings = {"one": SETTINGS, "two": SETTINGS | {"seed": 4}, "lora": OTHER}
    alone = {name: run(resident, told, tmp_path / name) for name, told in settings.items()}
    trials = {
        name: start_trial(resident, told, tmp_path / f"packed-{name}")
        for name, told in settings.items()
    }
    packed: dict[str, list[Report]] = {name: [] for name in trials}
    while open_names := [name for name in trials if not trials[name].run.is_done]:
        outcomes = advance_trials(resident, [trials[name] for name in open_names])
        for name, outcome in zip(open_names, outcomes, strict=True):
            if outcome is not None:
                assert isinstance(outcome, Report)
                packed[name].append(outcome)
    for name in settings:
        one, other = factors(tmp_path / name), factors(tmp_path / f"packed-{name}")
        for key in one:
            torch.testing.assert_close(other[key], one[key], rtol=1e-3, atol=1e-4)
        assert [report.step for report in packed[name]] == [report.step for report in alone[name]]
        for mine, theirs in zip(packed[name], alone[name], strict=True):
            for score in ("fixed_loss", "clip_i", "clip_t"):
                assert mine.metrics[score] == pytest.approx(theirs.metrics[score], abs=1e-2)


def test_evaluations_that_do_not_fit_together_are_made_one_by_one(
    resident: Resident, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_each = resident.scorer.evaluate_each

    def one_at_a_time(base: Any, adapters: Any) -> Any:
        if len(adapters) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return evaluate_each(base, adapters)

    monkeypatch.setattr(resident.scorer, "evaluate_each", one_at_a_time)
    trials = [start_trial(resident, OTHER, tmp_path / name) for name in ("one", "two")]
    outcomes = advance_trials(resident, trials)
    assert all(isinstance(outcome, Report) and outcome.is_evaluation for outcome in outcomes)


def test_an_evaluation_short_of_memory_is_made_at_the_next_call(
    resident: Resident, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(base: Any, adapters: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    due = start_trial(resident, SETTINGS, tmp_path / "due")
    other = start_trial(resident, SETTINGS | {"seed": 4}, tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(resident.scorer, "evaluate_each", full)
        with pytest.raises(torch.OutOfMemoryError):
            advance_trials(resident, [due, other])
    (report,) = advance_trials(resident, [due])
    assert isinstance(report, Report)
    assert (report.step, report.is_evaluation) == (2, True)
    assert {"balance", "train_loss"} <= report.metrics.keys()
    assert load_adapter(tmp_path / "due" / ADAPTER_FILE)[1].steps == 2
    reports = advance_trials(resident, [due, other])
    assert [report.step for report in reports if isinstance(report, Report)] == [4, 2]


def test_trials_advanced_together_took_equal_time_and_waited_for_what_others_did_alone(
    resident: Resident, tmp_path: Path
) -> None:
    one = start_trial(resident, OTHER, tmp_path / "one")
    two = start_trial(resident, OTHER | {"seed": 8}, tmp_path / "two")
    advance_trials(resident, [one, two])
    before, together = one.spent.metrics(), two.spent.metrics()
    assert [before[name] for name in ("train_s", "score_s")] == [
        together[name] for name in ("train_s", "score_s")
    ]
    start = time.perf_counter()
    advance_trials(resident, [one])
    alone_s = time.perf_counter() - start
    assert one.spent.metrics()["score_s"] > before["score_s"]
    assert two.spent.metrics()["wait_s"] >= together["wait_s"] + alone_s
