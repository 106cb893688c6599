"""Timed calls in, medians of ratios out; and results in, a file with date, hardware, versions."""

import ctypes
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_PACKAGES = ("torch", "triton", "diffusers", "peft", "lycoris_lora")


def prepare(threads: int) -> None:
    """Set the number of CPU threads, and have the C library keep the memory that is freed.

    It gives large blocks back to the system now and then, and whoever is next pays for new pages.
    """
    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def time_once(run: Callable[[], object], device: str) -> float:
    """Seconds that run() takes: the processor's on the CPU, which is shared with neighbours."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    _synchronize(device)
    start = clock()
    run()
    _synchronize(device)
    return clock() - start


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleave(
    runs: Mapping[str, Callable[[], float]], rounds: int, *, num_dropped: int = 2
) -> dict[str, list[float]]:
    """Call all in each round, the first of them another every time; the first rounds are dropped.

    Returns: what each call gave, a list for each name.
    """
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds + num_dropped):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(runs[name]())
    return {name: values[num_dropped:] for name, values in times.items()}


def ratios(times: Mapping[str, list[float]], over: str) -> dict[str, float]:
    """The median, over rounds, of each one's time over that of `over`."""
    return {
        name: median(t / base for t, base in zip(values, times[over], strict=True))
        for name, values in times.items()
    }


def is_met(value: float, limit: float, *, is_least: bool = False) -> bool:
    """Whether a value is at most the limit, or at least."""
    return value >= limit if is_least else value <= limit


def goal(value: float | None, limit: float | None, *, is_least: bool = False) -> str:
    """A goal's cell: the limit, marked in red where it is missed; empty where there is none."""
    if limit is None or value is None:
        return ""
    told = f"{'≥' if is_least else '≤'} {limit:g}"
    return told if is_met(value, limit, is_least=is_least) else f"[red]{told} missed[/red]"


def save(name: str, config: Any, device: str, results: Any) -> Path:
    """Write the results with what they were measured on; the file is named by the date."""
    record = surroundings(device) | {"config": asdict(config), "results": results}
    path = RESULTS / f"{name}-{device}-{record['date'][:10]}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def surroundings(device: str) -> dict[str, Any]:
    """What a measurement hangs on: the date, the hardware, the versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(device),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hardware(device: str) -> str:
    """The device's name; of a CPU its number of cores too."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
