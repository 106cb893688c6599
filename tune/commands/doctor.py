"""`krona doctor`: what this machine has, what is missing, and what to do about it."""

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from krona.errors import KronaError

MIN_FREE_GIB = 5
PACKAGES = (
    "torch", "torchvision", "diffusers", "transformers", "accelerate", "safetensors",
    "ray", "optuna", "mlflow", "open_clip_torch",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report: what was looked at, whether it is well, and what was seen."""

    name: str
    is_well: bool
    detail: str


def doctor(*, base: str = "toyland", tracking_uri: str | None = None) -> None:
    """Print what this machine has and what is missing; exit 1 if a sweep could not run.

    Args:
        base: Checkpoint to try: 'toyland', a folder in diffusers layout, a .safetensors file,
            or a hub's id, which is fetched.
        tracking_uri: MLflow store to try. Unless given: $MLFLOW_TRACKING_URI or
            sqlite:///mlflow.db.
    """
    from rich.console import Console
    from rich.table import Table

    findings = examine(base, tracking_uri)
    table = Table("", "", "", show_header=False, box=None)
    for finding in findings:
        mark = "[green]ok[/]" if finding.is_well else "[red]missing[/]"
        table.add_row(mark, finding.name, finding.detail)
    Console().print(table)
    if not all(finding.is_well for finding in findings):
        raise SystemExit(1)


def examine(base: str, tracking_uri: str | None) -> list[Finding]:
    """Look at packages, devices, Ray, MLflow, the checkpoint and the disk."""
    checks: dict[str, Callable[[], str]] = {name: _version_of(name) for name in PACKAGES}
    checks |= {
        "devices": _devices,
        "ray": _ray,
        "mlflow store": lambda: _mlflow(tracking_uri),
        f"checkpoint {base}": lambda: _checkpoint(base),
        "disk": _disk,
    }
    return [_examine(name, check) for name, check in checks.items()]


def _examine(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name=name, is_well=True, detail=check())
    except Exception as error:  # a broken part must not hide the state of the others
        return Finding(name=name, is_well=False, detail=str(error) or type(error).__name__)


def _version_of(package: str) -> Callable[[], str]:
    def check() -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise KronaError("not installed; run: make install") from None

    return check


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in names)
    return f"no GPU; {os.cpu_count()} CPU cores (enough for the embedded default)"


def _ray() -> str:
    address = os.environ.get("RAY_ADDRESS")
    return f"cluster at {address}" if address else "starts its own on this machine"


def _mlflow(tracking_uri: str | None) -> str:
    from tune.names import resolve_tracking_uri
    from tune.records.store import Store

    uri = resolve_tracking_uri(tracking_uri)
    Store(uri).ping()
    return uri


def _checkpoint(base: str) -> str:
    from krona.base.checkpoint import load_base

    loaded = load_base(base)
    return f"{loaded.family}, {loaded.prediction_type}, {loaded.resolution} px"


def _disk() -> str:
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    if free_gib < MIN_FREE_GIB:
        raise KronaError(f"{free_gib:.1f} GiB free here; {MIN_FREE_GIB} GiB are needed")
    return f"{free_gib:.0f} GiB free"
