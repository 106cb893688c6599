"""One trial, start to end, on the embedded default: repeatable, and gone afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from short_trials import CONFIG, OTHER, SETTINGS, assert_bit_equal, factors, run

from krona.adapter.inject import attention_linears
from krona.errors import KronaError
from krona.exchange.adapter_file import load_adapter
from krona.train.state import averaged
from tune.trials.experiment import (
    ADAPTER_FILE,
    Report,
    Resident,
    advance_trials,
    best_sheet,
    run_experiment,
    start_trial,
)
from tune.trials.resident import report_every


def test_a_trial_repeats_bit_for_bit_whatever_ran_before(
    resident: Resident, tmp_path: Path
) -> None:
    first = run(resident, SETTINGS, tmp_path / "one")
    run(resident, OTHER, tmp_path / "other")
    second = run(resident, SETTINGS, tmp_path / "two")
    assert_bit_equal(factors(tmp_path / "one"), factors(tmp_path / "two"))
    assert [r.metrics.get("balance") for r in first] == [r.metrics.get("balance") for r in second]


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
