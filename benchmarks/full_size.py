"""Checkpoints of full size in; out, what each command takes on a CPU: time, memory, and the plan.

SD 1.5 as a folder and in one file, SDXL in one file, random weights in half precision
(random_checkpoint.py). Each goes through `krona plan`, training (train_alone.py), `krona sample`,
`krona export` and back, each in a process of its own. Least possible memory: the frozen weights in
their precision, which `krona plan` tells; a process has the libraries and files' pages besides.

Run: python benchmarks/full_size.py [--help]. SDXL takes 14 GB of disk for a while, 20 of memory.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from random_checkpoint import random_checkpoint
from record import save
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from krona.base.arithmetic import DTYPES, Precision
from krona.base.checkpoint import load_base
from krona.exchange.formats.merged_file import original_tensors

KRONA = Path(sys.executable).with_name("krona")
Case = Literal["sd15-folder", "sd15-file", "sdxl-file"]
TRAIN = Path(__file__).with_name("train_alone.py")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    cases: tuple[Case, ...] = ("sd15-folder", "sd15-file", "sdxl-file")
    """Checkpoints, one after another."""
    work: str = "full-size"
    """Folder for the checkpoints; it is made, and deleted again."""
    resolution: int = 128
    """Side of images in pixels; the weights are those of full size in any case."""
    precision: Precision = "fp32"
    """Of the frozen weights in training and sampling; exports are computed in fp32."""
    steps: int = 2
    """Optimizer steps."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a command took on a checkpoint, and the memory that the plan says of it, if it does."""

    case: str
    command: str
    seconds: float
    peak_gib: float
    planned_gib: float | None = None


def make_checkpoint(case: Case, work: Path) -> Path:
    """A folder in diffusers layout, or one file with the names that the originals have."""
    name, _, layout = case.partition("-")
    folder = random_checkpoint(name, work / name, dtype=DTYPES["fp16"])
    if layout == "folder":
        return folder
    base = load_base(folder, dtype=DTYPES["fp16"])
    path = work / f"{name}.safetensors"
    tensors = original_tensors(base, DTYPES["fp16"])
    save_file({key: t.half().contiguous() for key, t in tensors.items()}, path)
    shutil.rmtree(folder)
    return path


def commands(base: Path, work: Path, config: Config) -> dict[str, list[str]]:
    """What is typed, by what the table calls it."""
    adapter = str(work / "trained/adapter.safetensors")
    exported = str(work / "exported/adapter.safetensors")
    shared = ["--resolution", str(config.resolution), "--precision", config.precision]
    of_base = ["--base", str(base), *shared]
    krona, steps = str(KRONA), ["--steps", str(config.steps)]
    quick = ["--images-per-prompt", "1", "--sampling-steps", "2"]
    drawn = ["--output", str(work / "drawn")]
    return {
        "plan": [krona, "plan", *of_base, "--batch-size", "1", "--json"],
        "train": [sys.executable, str(TRAIN), str(base), adapter, *shared, *steps],
        "sample": [krona, "sample", "a {}", "--adapter", adapter, *shared, *quick, *drawn],
        "export": [krona, "export", adapter, "--output", exported],
        "sample the export": [
            krona,
            "sample",
            "a toy",
            "--adapter",
            exported,
            *of_base,
            *quick,
            *drawn,
        ],
    }


def run(words: list[str], out: Path) -> tuple[float, float]:
    """Run a command; seconds, and the most GiB that the process had."""
    actions = [(os.POSIX_SPAWN_OPEN, 1, str(out), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)]
    start_s = time.perf_counter()
    pid = os.posix_spawn(words[0], words, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start_s
    if status:
        raise SystemExit(f"failed: {' '.join(words)}")
    return seconds, usage.ru_maxrss / 2**20


def measure(case: Case, config: Config) -> list[Measured]:
    """All commands on one checkpoint, which is deleted again."""
    work, results = Path(config.work).absolute(), []
    work.mkdir(parents=True)
    try:
        base, out = make_checkpoint(case, work), work / "out"
        for name, words in commands(base, work, config).items():
            seconds, peak_gib = run(words, out)
            if name == "plan":
                planned_gib = json.loads(out.read_text())["memory"]["total"] / 2**30
            taken = Measured(case=case, command=name, seconds=seconds, peak_gib=peak_gib)
            results.append(replace(taken, planned_gib=planned_gib if name == "train" else None))
            print(results[-1], flush=True)
    finally:
        shutil.rmtree(work)
    return results


def main(config: Config) -> None:
    """Run the cases in turn, print and keep what they took."""
    table = Table("checkpoint", "command", "seconds", "peak GiB", "planned GiB")
    results = [measured for case in config.cases for measured in measure(case, config)]
    for m in results:
        planned = "" if m.planned_gib is None else f"{m.planned_gib:.2f}"
        table.add_row(m.case, m.command, f"{m.seconds:.0f}", f"{m.peak_gib:.2f}", planned)
    Console().print(table)
    print(
        f"written to {save('full_size', config, 'cpu', {'results': [asdict(m) for m in results]})}"
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
