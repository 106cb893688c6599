"""Whether a sweep's reported balance is the balance: its champion on images that nobody has seen.

Goal: over five embedded subjects, the champion's reported balance and its balance on 400 images of
fresh noise differ by 0.02 at most on average; the best single look stands beside it. Least
possible: the sweeps, and 400 images of one adapter or two for each subject; half a 95 % interval of
400 images is about 0.012, so that honest numbers differ by about 0.01 on average.

Each sweep is `krona sweep` itself. A subject that is in the rows is not run again.
Run: python benchmarks/honesty.py [--help]; docs/scores.md has what it found.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro
from record import RESULTS, is_met
from rich.console import Console
from rich.table import Table

from evals.interval import Looks, estimate
from tune.config.trial import ExperimentConfig
from tune.names import METRIC, resolve_tracking_uri
from tune.records.ranking import Row, best, rank
from tune.records.tracking import Tracker
from tune.sweep.finals import finalists
from tune.trials.experiment import look_afresh
from tune.trials.resident import Resident

GOAL = 0.02
KRONA = "from tune.cli import main; main()"
FIRST_UNSEEN = 1000  # the number of an image that no finalists' round reaches


@dataclass(frozen=True, kw_only=True)
class Honesty:
    """What to sweep, and how much to look at it."""

    subjects: tuple[str, ...] = ("backpack", "cake", "duck", "scooter", "taxi")
    """Embedded subjects."""
    trials: int = 16
    """Of each sweep."""
    steps: int = 100
    """Of a trial."""
    final_images: int | None = None
    """Of a finalist at most. Unless given: as by default."""
    images: int = 400
    """Fresh images of an adapter, about; as many of each prompt."""
    threads: int = 2
    """CPU threads of the fresh images."""
    folder: Path = Path("krona-honesty")
    """Gets the sweeps, and the MLflow store that they are recorded in."""
    rows: Path = RESULTS / "honesty.jsonl"
    """One line for each finished subject."""


def swept(config: Honesty, subject: str, uri: str) -> list[Row]:
    """Run a sweep of a subject, unless it is there; return its ranking."""
    name = f"honest-{subject}-{config.trials}-{config.steps}"
    storage = config.folder / "krona-runs"
    command = ["--subject", subject, "--trials", str(config.trials), "--steps", str(config.steps)]
    command += ["--name", name, "--storage", str(storage), "--tracking-uri", uri]
    if config.final_images is not None:
        command += ["--final-images", str(config.final_images)]
    if (storage / name).exists():
        command = ["--resume", *command]
    subprocess.run([sys.executable, "-c", KRONA, "sweep", *command], check=True)
    tracker = Tracker(uri)
    return rank(tracker, tracker.find_sweep(name).run_id)


def fresh(config: Honesty, resident: Resident, run_id: str, uri: str) -> tuple[float, float]:
    """The balance of a run's adapter over images that nobody has seen, and half its interval."""
    adapter = Tracker(uri).download_adapter(run_id)
    num = -(-config.images // len(resident.subject.prompts))
    values = look_afresh(resident, adapter, first=FIRST_UNSEEN, num_per_prompt=num)
    found = estimate(Looks.of(values))
    return found.balance, found.half_width


def measure(config: Honesty, subject: str) -> dict[str, Any]:
    """One subject's row: what its sweep reports, and what is so."""
    uri = resolve_tracking_uri(f"sqlite:///{config.folder}/mlflow.db")
    rows = swept(config, subject, uri)
    champion, (looked, *_) = best(rows), finalists(rows, 1)
    assert champion is not None
    assert champion.interval is not None
    resident = Resident.load(ExperimentConfig(subject=subject))
    truth = {run: fresh(config, resident, run, uri) for run in {champion.run_id, looked.run_id}}
    return {
        "subject": subject,
        "trials": config.trials,
        "steps": config.steps,
        "champion": champion.key,
        "reported": champion.interval,
        "fresh": truth[champion.run_id],
        "best_look": looked.key,
        "look": looked.scores[METRIC],
        "fresh_of_look": truth[looked.run_id],
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """What was found, and the means of what differs."""
    found = Table(title="a sweep's balance, and the balance on fresh images")
    for name in ("subject", "champion", "reported", "fresh", "off", "best look", "look", "fresh"):
        found.add_column(name, justify="left" if name == "subject" else "right", no_wrap=True)
    found.add_column("off", justify="right")
    for row in rows:
        cells = [row["champion"], _said(row["reported"]), _said(row["fresh"]), f"{_off(row):+.3f}"]
        cells += [row["best_look"], f"{row['look']:.3f}", _said(row["fresh_of_look"])]
        found.add_row(row["subject"], *cells, f"{_look_off(row):+.3f}")
    off, look_off = (mean(abs(of(row)) for row in rows) for of in (_off, _look_off))
    met = "" if is_met(off, GOAL) else " missed"
    found.caption = f"mean |off| {off:.3f} (goal ≤ {GOAL}{met}); of the best look {look_off:.3f}"
    return found


def _off(row: dict[str, Any]) -> float:
    return float(row["reported"][0] - row["fresh"][0])


def _look_off(row: dict[str, Any]) -> float:
    return float(row["look"] - row["fresh_of_look"][0])


def _said(interval: tuple[float, float]) -> str:
    return "{:.3f} ± {:.3f}".format(*interval)


def main(config: Honesty) -> None:
    """Run the subjects that are missing, and print the table."""
    torch.set_num_threads(config.threads)
    config.folder.mkdir(parents=True, exist_ok=True)
    lines = config.rows.read_text().splitlines() if config.rows.exists() else []
    done = {row["subject"]: row for row in map(json.loads, lines)}
    for subject in config.subjects:
        if subject not in done:
            done[subject] = measure(config, subject)
            with config.rows.open("a") as file:
                file.write(json.dumps(done[subject]) + "\n")
    Console(width=110).print(table([done[subject] for subject in config.subjects]))


if __name__ == "__main__":
    main(tyro.cli(Honesty, description=__doc__))
