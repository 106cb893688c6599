"""A slot: one worker of the sweep's only Ray Train run, with the frozen base resident.

It takes jobs from the broker and advances them in turn. A job is a generator of reports; how many
are held at once is `capacity`, and nothing here depends on its being 1.
"""

import importlib
import math
import traceback
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train

from krona.errors import KronaError
from tune.broker import Job
from tune.config import ExperimentConfig
from tune.records import METRIC, PAPER_DEFAULT, TIME
from tune.tracking import Tracker

ADAPTER_FILE = "adapter.safetensors"


@dataclass(frozen=True, kw_only=True)
class SlotConfig:
    """What every slot of a sweep is told."""

    broker: Any
    experiment: ExperimentConfig
    experiment_module: str
    tracking_uri: str
    folder: Path
    threads: int
    capacity: int = 1


def run_slot(loop_config: dict[str, SlotConfig]) -> None:
    """The train loop of each worker: load what stays, then work until the sweep is over."""
    import torch

    config = loop_config["slot"]
    torch.set_num_threads(config.threads)
    rank = ray.train.get_context().get_world_rank()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        try:
            module = importlib.import_module(config.experiment_module)
            resident = module.Resident.load(config.experiment)
        except Exception as error:  # no slot will do better: this ends the sweep
            ray.get(config.broker.close.remote(failure_text(error)))
            return
    facts = {
        "valid_factors": resident.valid_factors,
        "warnings": [str(w.message) for w in caught if issubclass(w.category, UserWarning)],
    }
    ray.get(config.broker.register.remote(rank, facts))
    Slot(config, module, resident, rank).run()


@dataclass(frozen=True)
class _Active:
    job: Job
    run_id: str
    reports: Generator[bool]


class Slot:
    """The jobs of one worker, advanced in turn."""

    def __init__(self, config: SlotConfig, module: Any, resident: Any, rank: int) -> None:
        self._config = config
        self._broker = config.broker
        self._module = module
        self._resident = resident
        self._rank = rank
        self._tracker = Tracker(config.tracking_uri)
        self._active: list[_Active] = []

    def run(self) -> None:
        """Take and advance jobs until the broker has no more to give."""
        while True:
            while len(self._active) < self._config.capacity:
                waits = not self._active
                job = ray.get(self._broker.take.remote(self._rank, wait=waits))
                if job is None:
                    break
                self._active.append(self._start(job))
            if not self._active:
                return
            self._active = [active for active in self._active if self._advance(active)]

    def _start(self, job: Job) -> _Active:
        sweep_run = job.payload["sweep_run"]
        if job.kind == "sheet":
            return _Active(job, sweep_run.parent_id, self._sheet(job))
        tags = {PAPER_DEFAULT: "true"} if job.payload[PAPER_DEFAULT] else {}
        run_id = self._tracker.trial_run(sweep_run, job.key, job.payload["settings"], tags=tags)
        return _Active(job, run_id, self._train(job, run_id))

    def _advance(self, active: _Active) -> bool:
        """Run a job up to its next report. Returns whether it is still active."""
        try:
            if next(active.reports):
                return True
            active.reports.close()
        except StopIteration:
            ray.get(self._broker.finish.remote(active.job))
        except Exception as error:
            text = failure_text(error)
            self._tracker.log_failure(active.run_id, text)
            ray.get(self._broker.finish.remote(active.job, text))
        return False

    def _train(self, job: Job, run_id: str) -> Generator[bool]:
        """Train a trial, record each report, yield whether Tune wants more of it."""
        settings, folder = job.payload["settings"], self._config.folder / job.key
        reports = self._module.run_experiment(
            self._resident, settings, folder, resume=job.attempt > 1 or folder.exists()
        )
        for report in reports:
            is_final = report.is_evaluation and report.step >= settings["steps"]
            self._tracker.log_report(run_id, report.step, report.metrics, report.images)
            if report.is_evaluation:
                self._tracker.log_adapter(run_id, folder / ADAPTER_FILE)
                check_finite(report.metrics)
            result = report.metrics | {TIME: report.step, "is_final": is_final}
            yield ray.get(self._broker.report.remote(job, result, wait=report.is_evaluation))

    def _sheet(self, job: Job) -> Generator[bool]:
        """Sample the best adapters under equal prompts and seeds onto one picture."""
        sheet = self._module.best_sheet(self._resident, job.payload["adapters"])
        parent_id = job.payload["sweep_run"].parent_id
        self._tracker.log_picture(parent_id, sheet, "contact_sheet.png")
        yield True


def check_finite(metrics: dict[str, float]) -> None:
    """Raise KronaError if the number that the search goes by is none."""
    if not math.isfinite(metrics[METRIC]):
        raise KronaError(f"{METRIC}={metrics[METRIC]} is not a score; training has diverged")


def failure_text(error: Exception) -> str:
    """What to tell of an error: a KronaError explains itself, others bring their traceback."""
    if isinstance(error, KronaError):
        return str(error)
    return "".join(traceback.format_exception(error))
