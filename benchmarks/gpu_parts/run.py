"""A part's name and command in; the report out with what its process measured, and how it ended."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from gpu_parts.report import Report

_ROOT = Path(__file__).parents[2]


def run_apart(name: str, command: list[str], report: Report, *, limit_s: float) -> Report:
    """Run a part by `command`, which calls measure(), in a process of its own.

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
