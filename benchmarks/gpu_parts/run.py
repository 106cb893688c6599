"""A part's name in; the report out with what it measured, in this process or in one of its own."""

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpu_parts.bases import sd15, sdxl
from gpu_parts.layers import run as layer
from gpu_parts.report import Notes, Report
from gpu_parts.sampling import run as sample
from gpu_parts.setup import LackingError, Setup, told
from gpu_parts.whole import sweep, tests

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Part:
    """What measures, and how many seconds it may take at full size."""

    run: Callable[[Setup, Notes], None]
    limit_s: float


PARTS = {
    "tests": Part(tests, 40),
    "layer": Part(layer, 75),
    "sd15": Part(sd15, 110),
    "sdxl": Part(sdxl, 130),
    "sample": Part(sample, 60),
    "sweep": Part(sweep, 65),
}


def run_here(name: str, setup: Setup, report: Report) -> None:
    """Run a part and say how it ended; whatever goes wrong is its result."""
    try:
        PARTS[name].run(setup, report.notes(name))
        report.end(name, "done")
    except LackingError as lacking:
        report.end(name, "skipped", str(lacking))
    except Exception as error:
        traceback.print_exc()
        report.end(name, "failed", told(error))


def run_apart(name: str, command: list[str], report: Report, *, limit_s: float) -> Report:
    """Run a part by `command`, which calls run_here(), in a process of its own.

    Returns: the report as that process left it; a part that did not end by itself is told of.
    """
    report.begin(name)
    start_s = time.perf_counter()
    process = subprocess.Popen(command, start_new_session=True, env=_environment())
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(limit_s)
    finally:
        is_late = _end(process)
    written = Report(report.path, report.device)
    if written.parts[name]["status"] == "running":
        if is_late:
            written.end(name, "timed out", f"ended after {limit_s:g} s; what it measured stays")
        else:
            written.end(name, "failed", f"its process ended with {process.returncode}")
    written.took(name, time.perf_counter() - start_s)
    return written


def _end(process: subprocess.Popen[bytes]) -> bool:
    """End a process that still runs, and its children; whether it did."""
    is_late = process.poll() is None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children of one that ended may be there
    process.wait()
    return is_late


def _environment() -> dict[str, str]:
    """This process's, with krona to be found where it is not installed, and no hub asked."""
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
