"""Checkpoints of full size in; out, what each command takes on a CPU: seconds, memory, and the plan.

SD 1.5 as a folder and in one file, SDXL in one file, random weights in half precision
(random_checkpoint.py). Each goes through `krona plan`, `train`, `sample`, `export` and back, the
commands as a user types them, each in a process of its own. Least possible memory: the frozen weights
in their precision, which `krona plan` tells.

Run: python benchmarks/full_size.py [--help]. It needs 8 GB of disk for SDXL, and nothing beside it.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from random_checkpoint import random_checkpoint
from record import save
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from krona.base.arithmetic import DTYPES, Precision

KRONA = Path(sys.executable).with_name("krona")
Case = Literal["sd15-folder", "sd15-file", "sdxl-file"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    cases: tuple[Case, ...] = ("sd15-folder", "sd15-file", "sdxl-file")
    """Checkpoints, one after another."""
    work: Path = Path("full-size")
    """Folder for the checkpoints, which are deleted again."""
    resolution: int = 256
    """Side of images in pixels; the weights are those of full size in any case."""
    precision: Precision = "bf16"
    """Of the frozen weights in training and sampling; exports are computed in fp32."""
    steps: int = 2
    """Optimizer steps."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One command on one checkpoint: seconds, the process's peak GiB, and the plan's, of training."""

    case: str
    command: str
    seconds: float
    peak_gib: float
    planned_gib: float | None = None


def make_checkpoint(case: Case, work: Path) -> Path:
    """A folder in diffusers layout, or one file under the names that the originals have."""
    name, _, layout = case.partition("-")
    folder = random_checkpoint(name, work / name, dtype=DTYPES["fp16"])
    if layout == "folder":
        return folder
    path = work / f"{name}.safetensors"
    save_file(_original(folder, name), path)
    shutil.rmtree(folder)
    return path


def _original(folder: Path, name: str) -> dict[str, object]:
    from krona.base.checkpoint import load_base
    from krona.exchange.formats.merged_file import _tensors

    base = load_base(folder, dtype=DTYPES["fp16"])
    return {key: tensor.half().contiguous() for key, tensor in _tensors(base).items()}


def run(case: str, work: Path, *words: str) -> tuple[Measured, str]:
    """Run `krona WORDS`; what it took, and what it printed."""
    out = work / "out.txt"
    with out.open("wb") as file:
        start_s = time.perf_counter()
        pid = os.posix_spawn(
            KRONA,
            [str(KRONA), *words],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1)],
        )
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - start_s
    if status:
        raise SystemExit(f"krona {' '.join(words)} failed")
    measured = Measured(
        case=case, command=words[0], seconds=seconds, peak_gib=usage.ru_maxrss / 2**20
    )
    return measured, out.read_text()


def measure(case: Case, config: Config) -> list[Measured]:
    """All commands on one checkpoint, which is deleted again."""
    work = config.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    base = make_checkpoint(case, work)
    side, precision = str(config.resolution), config.precision
    named = ("--base", str(base))
    shared = ("--resolution", side, "--precision", precision)
    trained, adapter = work / "trained", work / "trained/adapter.safetensors"
    exported = work / "exported/adapter.safetensors"
    quick = ("--images-per-prompt", "1", "--sampling-steps", "2")
    toyland = ("--scorer", "toyland", "--dino", "toyland", "--subject", "duck")
    once = ("--steps", str(config.steps), "--batch-size", "1", "--output", str(trained))
    plan, told = run(case, work, "plan", *named, *shared, "--batch-size", "1", "--json")
    planned_gib = json.loads(told)["memory"]["total"] / 2**30
    commands = (
        ("train", *named, *shared, *once, *quick, *toyland),
        ("sample", "a {}", "--adapter", str(adapter), *shared, *quick, "--output", str(work / "s")),
        ("export", str(adapter), "--format", "kohya", "--output", str(exported)),
    )
    results = [plan]
    try:
        for words in commands:
            measured, _ = run(case, work, *words)
            is_training = words[0] == "train"
            results.append(
                Measured(**asdict(measured) | {"planned_gib": planned_gib})
                if is_training
                else measured
            )
        back = ("sample", "a sks toy", "--adapter", str(exported), *named, *shared, *quick)
        measured, _ = run(case, work, *back, "--output", str(work / "back"))
        results.append(Measured(**asdict(measured) | {"command": "sample, from the export"}))
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
    save("full_size", config, "cpu", {"results": [asdict(m) for m in results]})


if __name__ == "__main__":
    main(tyro.cli(Config))
