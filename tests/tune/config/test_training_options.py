"""Options of the loss and the optimizer: refused where wrong, told to trials, records and JSON."""

from dataclasses import replace

import pytest

from krona.errors import KronaError
from tune.config.provenance import shared_params
from tune.config.sweep import SweepConfig, from_json, to_json
from tune.config.training import Training
from tune.config.trial import ExperimentConfig, TrialSettings
from tune.report.repeat import train_command
from tune.trials.resident import Resident

SAID = Training(accumulation_steps=2, warmup_steps=3, min_snr_gamma=5.0, prior_weight=1.0)


def told(training: Training) -> SweepConfig:
    return SweepConfig(experiment=ExperimentConfig(training=training))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("accumulation_steps", 0, "1 or more"),
        ("num_class_images", 0, "1 or more"),
        ("warmup_steps", -1, "0 or more"),
        ("weight_decay", float("inf"), "0 or more and finite"),
        ("prior_weight", float("nan"), "0 or more and finite"),
        ("max_grad_norm", 0.0, "above 0"),
        ("min_snr_gamma", 0.0, "above 0"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_right(name, value, wanted):
    with pytest.raises(KronaError, match=f"{name}={value} must be {wanted}"):
        Training(**{name: value})


def test_a_trial_is_trained_as_it_was_told():
    nothing = {"base": None, "subject": None, "photos": None, "scorer": None, "cache": None}
    resident = Resident(ExperimentConfig(training=SAID), **nothing)
    config = resident.train_config(TrialSettings(steps=8))
    for name, value in vars(SAID).items():
        assert getattr(config, name) == value


def test_a_resumed_sweep_is_told_the_same():
    assert from_json(to_json(told(SAID))).experiment.training == SAID


def test_runs_record_it_and_the_command_that_repeats_one_says_it():
    params = {name: str(value) for name, value in shared_params(told(SAID)).items()}
    assert (params["min_snr_gamma"], params["num_class_images"]) == ("5.0", "100")
    command = train_command(params, "duck")
    for option in ("--accumulation-steps 2", "--min-snr-gamma 5.0", "--prior-weight 1.0"):
        assert option in command
    assert "weight-decay" not in command


def test_what_only_class_images_use_is_left_out_without_them():
    assert "num_class_images" not in shared_params(told(replace(SAID, prior_weight=0.0)))
