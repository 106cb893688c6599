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
    """What all trials of a sweep are told, flat."""
    shared: dict[str, Any] = asdict(config.experiment)
    protocol: dict[str, Any] = shared.pop("protocol")
    return shared | protocol | {"eval_every": config.eval_every}


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
