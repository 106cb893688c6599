"""A slot: one worker of the sweep's only Ray Train run, with the frozen base resident.

It takes jobs from the broker and advances them together, as many as `pack` says; one enters as soon
as another leaves.
"""

import importlib
import math
import platform
import traceback
import warnings
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train

from krona.errors import DoesNotFitError, KronaError, is_out_of_memory
from tune.names import DOES_NOT_FIT, METRIC, NOTE_TAG, PAPER_DEFAULT, SLOT, TIME
from tune.records.notes import started_note
from tune.records.tracking import Tracker
from tune.records.views import run_path
from tune.slots.broker import Job
from tune.slots.plan import SlotConfig
from tune.slots.recorder import Recorder

ADAPTER_FILE = "adapter.safetensors"


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
            resident = module.Resident.load(
                config.experiment, config.choices, gpu_frac=config.gpu_frac
            )
            pack = config.pack if config.pack != "auto" else resident.pack_size()
        except Exception as error:  # no slot will do better: this ends the sweep
            ray.get(config.broker.dismiss.remote(failure_text(error)))
            return
    facts = {
        "factors": resident.factors,
        "pack": pack,
        "params": resident.resolved(),
        "warnings": [str(w.message) for w in caught if issubclass(w.category, UserWarning)],
    }
    ray.get(config.broker.register.remote(rank, facts))
    Slot(config, module, resident, rank, pack).run()


@dataclass(frozen=True)
class _Active:
    job: Job
    run_id: str
    trial: Any


class Slot:
    """The trials of one worker, advanced together over one base."""

    def __init__(
        self, config: SlotConfig, module: Any, resident: Any, rank: int, pack: int
    ) -> None:
        self._config = config
        self._broker = config.broker
        self._module = module
        self._resident = resident
        self._rank = rank
        self._tracker = Tracker(config.tracking_uri)
        self._recorder = Recorder(self._tracker)
        self._capacity = pack
        self._active: list[_Active] = []
        self._evicted: deque[_Active] = deque()

    def run(self) -> None:
        """Take and advance jobs until the broker has no more to give."""
        with self._recorder:
            while self._fill():
                self._active = [
                    active for active, outcome in self._advance() if self._settle(active, outcome)
                ]

    def _fill(self) -> bool:
        """Start what there is room for, evicted trials first. Returns whether there is any."""
        while len(self._active) < self._capacity:
            if self._evicted:
                self._active.append(self._evicted.popleft())
                continue
            job = ray.get(self._broker.take.remote(self._rank, wait=not self._active))
            if job is None:
                break
            self._start(job)
        # adapters of one shape side by side share their products
        self._active.sort(key=lambda active: str(active.trial.settings))
        return bool(self._active)

    def _start(self, job: Job) -> None:
        """Let a trial join the others; draw anything else at once."""
        sweep_run, run_id = job.payload["sweep_run"], job.payload["sweep_run"].parent_id
        try:
            if job.kind != "trial":
                {"sheet": self._draw_sheet, "look": self._look_afresh}[job.kind](job)
                ray.get(self._broker.finish.remote(job))
                return
            settings, folder = job.payload["settings"], self._config.folder / job.key
            page = run_path(sweep_run.experiment_id, sweep_run.parent_id)
            tags = {NOTE_TAG: started_note(job.key, settings, page)}
            tags |= {PAPER_DEFAULT: "true"} if job.payload[PAPER_DEFAULT] else {}
            run_id = self._tracker.trial_run(sweep_run, job.key, settings, tags=tags)
            self._tracker.tag(run_id, f"{SLOT}.{self._rank}", platform.node())
            trial = self._module.start_trial(
                self._resident, settings, folder, resume=job.attempt > 1 or folder.exists()
            )
        except Exception as error:
            self._fail(job, run_id, error)
            return
        self._active.append(_Active(job, run_id, trial))

    def _advance(self) -> list[tuple[_Active, Any]]:
        """Train all up to a report of any; each one's report, or what ended it, or None.

        Where memory is short, half of them wait as they are until there is room. Where anything
        else goes wrong with all, each advances alone, and fails alone.
        """
        try:
            trials = [active.trial for active in self._active]
            outcomes = self._module.advance_trials(self._resident, trials)
            return list(zip(self._active, outcomes, strict=True))
        except Exception as error:
            if len(self._active) == 1:
                return [(self._active[0], error)]
            if is_out_of_memory(error):
                self._capacity = len(self._active) // 2
                self._evicted.extend(self._active[self._capacity :])
                self._active = self._active[: self._capacity]
                return [(active, None) for active in self._active]
        return [pair for active in self._active for pair in self._advance_alone(active)]

    def _advance_alone(self, active: _Active) -> list[tuple[_Active, Any]]:
        try:
            return [(active, self._module.advance_trials(self._resident, [active.trial])[0])]
        except Exception as error:
            return [(active, error)]

    def _settle(self, active: _Active, outcome: Any) -> bool:
        """Record and hand on what a trial said. Returns whether it goes on.

        It ends, also where the search stops it, only when its records are delivered.
        """
        if outcome is None:
            return True
        try:
            if isinstance(outcome, Exception):
                raise outcome
            goes_on = self._hand_on(active, outcome)
            if not goes_on:
                self._recorder.deliver(active.run_id)
        except Exception as error:
            self._fail(active.job, active.run_id, error)
            return False
        if not goes_on:
            ray.get(self._broker.finish.remote(active.job))
        return goes_on

    def _hand_on(self, active: _Active, report: Any) -> bool:
        """Record a report and tell the search. Returns whether the trial goes on.

        The search hears of a report while it is recorded, of the last one only thereafter.
        """
        job, run_id = active.job, active.run_id
        report = replace(report, metrics=report.metrics | {SLOT: self._rank})
        is_last = report.is_last
        adapter = self._config.folder / job.key / ADAPTER_FILE if report.is_best else None
        self._recorder.log_report(run_id, report, adapter)
        if report.is_evaluation:
            check_finite(report.metrics)
        if is_last:
            self._recorder.deliver(run_id)
        is_final = is_last and report.is_evaluation
        result = report.metrics | {TIME: report.step, "is_final": is_final}
        told = self._broker.report.remote(job, result, wait=report.is_evaluation)
        return bool(ray.get(told)) and not is_last

    def _draw_sheet(self, job: Job) -> None:
        """Put the best images of the best trials onto one picture."""
        trials = [(label, self._tracker.best_images(run)) for label, run in job.payload["trials"]]
        sheet = self._module.best_sheet(self._resident, trials)
        self._tracker.log_picture(job.payload["sweep_run"].parent_id, sheet, "contact_sheet.png")

    def _look_afresh(self, job: Job) -> None:
        """Tell how images of a trial's adapter score that it was not judged by."""
        with TemporaryDirectory(prefix="krona-") as folder:
            adapter = self._tracker.download_adapter(job.payload["run_id"], Path(folder))
            values = self._module.look_afresh(self._resident, adapter, **job.payload["images"])
        ray.get(self._broker.report.remote(job, values, wait=False))

    def _fail(self, job: Job, run_id: str, error: Exception) -> None:
        text = failure_text(error)
        self._recorder.log_failure(run_id, text)
        if isinstance(error, DoesNotFitError):
            told = {DOES_NOT_FIT: True, TIME: 0}
            ray.get(self._broker.report.remote(job, told, wait=False))
        ray.get(self._broker.finish.remote(job, text))


def check_finite(metrics: dict[str, float]) -> None:
    """Raise KronaError if the number that the search goes by is none."""
    if not math.isfinite(metrics[METRIC]):
        raise KronaError(f"{METRIC}={metrics[METRIC]} is not a score; training has diverged")


def failure_text(error: Exception) -> str:
    """What to tell of an error: a KronaError explains itself, others bring their traceback."""
    if isinstance(error, KronaError):
        return str(error)
    return "".join(traceback.format_exception(error))
