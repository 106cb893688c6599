"""The parts `tests` and `sweep`: commands in processes of their own, and what they say."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_parts.report import Notes
from gpu_parts.setup import Setup, require

ROOT = Path(__file__).parents[2]
_PACKAGES = ("ray", "mlflow", "optuna", "tyro", "pydantic", "rich", "open_clip")
_KRONA = "from tune.cli import main; main()"  # krona need not be installed


def tests(setup: Setup, notes: Notes) -> None:
    """The tests that are marked as needing CUDA; others' files may need packages to be imported."""
    require("pytest", "pytest_timeout")
    folder = ROOT / "tests"
    files = [p for p in sorted(folder.rglob("krona/**/test_*.py")) if "mark.gpu" in p.read_text()]
    files += sorted(folder.glob("rehearsal/test_*.py"))
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short"]
    said = _run([sys.executable, "-m", "pytest", *options, *map(str, files)], ROOT)
    counts = {word: float(num) for num, word in re.findall(r"(\d+) (passed|skipped)", said)}
    notes.add("tests", "marked gpu", counts)


def sweep(setup: Setup, notes: Notes) -> None:
    """`krona sweep` on Toyland, in packs of four: seconds, and the balance of the best trial."""
    require(*_PACKAGES)
    trials, steps = setup.pick((8, 100), (1, 2))
    options = sweep_options(trials, steps, setup.device)
    with TemporaryDirectory() as folder:
        start_s = time.perf_counter()
        _run([sys.executable, "-c", _KRONA, "sweep", *options], Path(folder))
        seconds = time.perf_counter() - start_s
        balance = _best_balance(f"sqlite:///{folder}/mlflow.db")
    values = {"s": seconds, "best balance": balance}
    notes.add("a sweep", f"Toyland, {trials} trials of {steps} steps at most", values)


def sweep_options(trials: int, steps: int, device: str) -> list[str]:
    """What `krona sweep` is told."""
    options = ["--trials", str(trials), "--steps", str(steps), "--device", device]
    return [*options, "--slots", "1", "--pack", "4"]


def _best_balance(store: str) -> float:
    import mlflow

    client = mlflow.MlflowClient(store)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    return max(run.data.metrics["balance"] for run in runs if "balance" in run.data.metrics)


def _run(command: list[str], folder: Path) -> str:
    """What a command prints. Raises: RuntimeError with its last lines if it fails."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    if result.returncode:
        end = "\n".join((result.stdout + result.stderr).splitlines()[-12:])
        raise RuntimeError(f"exit code {result.returncode}: {end}")
    return result.stdout
