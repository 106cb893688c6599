"""Trials of a few steps on the embedded default: settings in; reports and factors out."""

from pathlib import Path
from typing import Any

import torch

from evals.protocol import Protocol
from krona.exchange.adapter_file import load_adapter
from tune.config.trial import ExperimentConfig
from tune.trials.experiment import ADAPTER_FILE, Report, Resident, run_experiment

SETTINGS = {"a1": 8, "a2": 8, "learning_rate": 5e-3, "steps": 4, "seed": 3}
OTHER = {"kind": "lora", "rank": 2, "learning_rate": 1e-2, "steps": 2, "targets": "qv", "seed": 7}
CONFIG = ExperimentConfig(subject="teapot", eval_every=2, protocol=Protocol(sampling_steps=2))


def run(resident: Resident, settings: dict[str, Any], folder: Path, **options: Any) -> list[Report]:
    return list(run_experiment(resident, settings, folder, **options))


def factors(folder: Path) -> dict[str, torch.Tensor]:
    return load_adapter(folder / ADAPTER_FILE)[0]


def assert_bit_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
