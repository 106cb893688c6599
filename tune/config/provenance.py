"""What every run of a sweep carries: package versions, git commit, shared settings."""

import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tune.config.sweep import SweepConfig

PACKAGES = ("krona-search", "torch", "diffusers", "ray", "optuna", "mlflow")


def provenance() -> dict[str, str]:
    """Tags: versions of what decides the numbers, and the commit if this is a checkout."""
    tags = {f"version.{name}": version(name) for name in PACKAGES}
    commit = _git_commit()
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def shared_params(config: SweepConfig) -> dict[str, Any]:
    """What all trials of a sweep are told, flat, each as it is meant; what is not said is left out.

    What only a slot can tell (resolution, precision, device, noun, identifier) is added by it.
    """
    experiment = config.experiment
    shared: dict[str, Any] = asdict(experiment)
    shared |= (
        shared.pop("protocol")
        | _training(shared.pop("training"))
        | {
            "subject": experiment.subject_name,
            "scorer": experiment.clip_source,
            "dino": experiment.dino_source,
            "eval_every": config.eval_every,
        }
    )
    untold = {"cache_dir"} | ({"precision"} if experiment.precision == "auto" else set())
    return {name: v for name, v in shared.items() if v is not None and name not in untold}


def _training(told: dict[str, Any]) -> dict[str, Any]:
    """Without what only class images use, where there are none."""
    return told if told["prior_weight"] else {**told, "num_class_images": None}


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
