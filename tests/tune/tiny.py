"""Sweeps of the stand-in experiment, small enough for a test: a folder in, a SweepConfig out."""

from pathlib import Path
from typing import Any

from tune.config.sweep import SweepConfig
from tune.config.trial import ExperimentConfig


def tiny_config(folder: Path, **changes: Any) -> SweepConfig:
    """A sweep of the stand-in experiment; everything it writes goes to `folder`."""
    experiment = ExperimentConfig(
        subject=changes.pop("subject", "monster"), identifier=changes.pop("identifier", None)
    )
    defaults: dict[str, Any] = {
        "experiment": experiment,
        "experiment_module": "standin",
        "tracking_uri": f"sqlite:///{folder}/mlflow.db",
        "storage": folder / "krona-runs",
        "name": "tiny",
        "trials": 4,
        "steps": 20,
        "slots": 1,
    }
    return SweepConfig(**(defaults | changes))
