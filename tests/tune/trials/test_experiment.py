"""One trial, start to end, on the embedded default: repeatable, resumable, and gone afterwards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evals.protocol import Protocol
from krona.adapter.inject import attention_linears
from krona.errors import KronaError
from krona.exchange.adapter_file import load_adapter
from krona.storage.tensors import read_safetensors
from krona.train.state import averaged
from tune.config.trial import ExperimentConfig
from tune.trials.experiment import (
    ADAPTER_FILE,
    STATE_FILE,
    Report,
    Resident,
    advance_trials,
    best_sheet,
    run_experiment,
    start_trial,
)
from tune.trials.resident import report_every

SETTINGS = {"a1": 8, "a2": 8, "learning_rate": 5e-3, "steps": 4, "seed": 3}
OTHER = {"kind": "lora", "rank": 2, "learning_rate": 1e-2, "steps": 2, "targets": "qv", "seed": 7}


CONFIG = ExperimentConfig(subject="teapot", eval_every=2, protocol=Protocol(sampling_steps=2))


@pytest.fixture(scope="module")
def resident() -> Resident:
    return Resident.load(CONFIG)


def run(resident: Resident, settings: dict[str, Any], folder: Path, **options: Any) -> list[Report]:
    return list(run_experiment(resident, settings, folder, **options))


def factors(folder: Path) -> dict[str, torch.Tensor]:
    return load_adapter(folder / ADAPTER_FILE)[0]


def assert_bit_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_trial_repeats_bit_for_bit_whatever_ran_before(
    resident: Resident, tmp_path: Path
) -> None:
    first = run(resident, SETTINGS, tmp_path / "one")
    run(resident, OTHER, tmp_path / "other")
    second = run(resident, SETTINGS, tmp_path / "two")
    assert_bit_equal(factors(tmp_path / "one"), factors(tmp_path / "two"))
    assert [r.metrics.get("balance") for r in first] == [r.metrics.get("balance") for r in second]


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


def test_memory_and_text_encoders_are_as_the_experiment_says(tmp_path: Path) -> None:
    config = replace(CONFIG, memory_gib=0.001, text_encoders=True)
    with pytest.warns(UserWarning, match="may run out of memory"):
        resident = Resident.load(config)
    assert resident.base.unet.is_gradient_checkpointing
    run(resident, SETTINGS, tmp_path)
    state, manifest = load_adapter(tmp_path / ADAPTER_FILE)
    assert manifest.config.adapts_text
    learned = [
        t for name, t in state.items() if name.startswith("text_encoder.") and name[-1] == "B"
    ]
    assert len(learned) == 3 * 4
    assert all(bool(tensor.any()) for tensor in learned)


def test_the_average_is_what_is_scored_and_saved(resident: Resident, tmp_path: Path) -> None:
    averaging = Resident(
        replace(resident.config, ema_decay=0.9),
        base=resident.base,
        subject=resident.subject,
        photos=resident.photos,
        scorer=resident.scorer,
        cache=resident.cache,
    )
    trial = start_trial(averaging, SETTINGS, tmp_path)
    while not trial.run.is_done:
        (report,) = advance_trials(averaging, [trial])
    state = trial.run.state
    latest = state.adapter.state_dict()
    saved = factors(tmp_path)
    with averaged([state]):
        assert_bit_equal(saved, state.adapter.state_dict())
        (evaluation,) = resident.scorer.evaluate_each(resident.base, [state.adapter])
    assert isinstance(report, Report)
    assert report.metrics["balance"] == evaluation.calibrated["balance"]
    assert any(not torch.equal(value, latest[name]) for name, value in saved.items())


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


@pytest.mark.parametrize(
    ("eval_every", "steps"), [(1, 1), (10, 10), (25, 25), (40, 20), (50, 25), (53, 53), (125, 25)]
)
def test_reports_come_about_every_twenty_steps_and_at_evaluations(
    eval_every: int, steps: int
) -> None:
    assert report_every(eval_every) == steps


def test_evaluations_carry_scores_images_and_the_adapter(
    resident: Resident, tmp_path: Path
) -> None:
    last = run(resident, SETTINGS, tmp_path)[-1]
    assert last.is_evaluation
    assert {"clip_t", "clip_t_se", "clip_i", "subject", "prompt", "balance"} <= set(last.metrics)
    assert len(last.images) == len(resident.subject.prompts)
    # 48 square or oblong layers: A is 8x8, B is (out/8)x(in/8)
    layers = attention_linears(resident.base.unet).values()
    expected = sum(64 + (x.out_features // 8) * (x.in_features // 8) for x in layers)
    assert last.metrics["num_params"] == expected
    manifest = load_adapter(tmp_path / ADAPTER_FILE)[1]
    assert (manifest.subject, manifest.seed) == ("teapot", 3)
    assert (manifest.balance, manifest.steps) == (
        last.metrics["best_balance"],
        last.metrics["best_step"],
    )


def test_scored_images_have_the_runs_resolution(tmp_path: Path) -> None:
    resident = Resident.load(replace(CONFIG, resolution=48))
    last = run(resident, OTHER, tmp_path)[-1]
    assert resident.base.resolution == 64
    assert {image.size for _, image in last.images} == {(48, 48)}


def test_the_base_is_untouched_after_a_trial_a_stop_and_a_failure(
    resident: Resident, tmp_path: Path
) -> None:
    before = attention_linears(resident.base.unet)
    run(resident, OTHER, tmp_path / "done")
    stopped = run_experiment(resident, OTHER, tmp_path / "stopped")
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    with pytest.raises(KronaError, match="a1=40 does not divide"):
        run(resident, SETTINGS | {"a1": 40}, tmp_path / "failed")
    assert attention_linears(resident.base.unet) == before
    assert not (tmp_path / "failed").exists()


def test_unknown_settings_are_refused_by_name(resident: Resident, tmp_path: Path) -> None:
    with pytest.raises(KronaError, match="'learning_rat'; did you mean 'learning_rate'"):
        run(resident, {"learning_rat": 1.0}, tmp_path)


def test_the_sheet_has_a_row_for_photos_base_and_each_trial(
    resident: Resident, tmp_path: Path
) -> None:
    images = dict(run(resident, OTHER, tmp_path)[-1].images)
    none, one, two = (best_sheet(resident, [("one", images)] * num) for num in range(3))
    assert two.height - one.height == one.height - none.height > 0
    assert one.crop((0, 0, *none.size)).tobytes() == none.tobytes()
    assert attention_linears(resident.base.unet)
