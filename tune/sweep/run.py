"""A sweep from start to end: its settings go in, MLflow holds what it found, the best comes out."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.tune
from rich.console import Console

from krona.errors import KronaError
from tune.config.folder import SweepFolder, ignored_options, open_folder
from tune.config.provenance import provenance, shared_params
from tune.config.sweep import SweepConfig
from tune.config.trial import Choices
from tune.names import PastSweep, SweepRun, experiment_name
from tune.records.ranking import Row, best, rank, record_ranks
from tune.records.shown import link_lines, show
from tune.records.table import ranking_table
from tune.records.tracking import Tracker
from tune.search.pruner import Pruner
from tune.search.searcher import Stop, StudySearch
from tune.search.space import make_space
from tune.slots.broker import Broker, JobError
from tune.slots.cluster import node_resources, ray_session, slots
from tune.slots.plan import Plan, SlotConfig, make_plan, trials_at_once
from tune.slots.trial import HEAD, run_trial
from tune.sweep.callback import RunStates
from tune.sweep.conclusion import conclude, log_report, sheet_job
from tune.sweep.final_round import FinalRound
from tune.sweep.progress import Progress


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep found; `best` is None if it was stopped before any trial finished."""

    name: str
    experiment: str
    parent_id: str
    rows: tuple[Row, ...]
    best: Row | None
    is_complete: bool
    resume_command: str
    links: str


def run_sweep(config: SweepConfig, console: Console | None = None) -> SweepResult:
    """Search the settings for one subject; Ctrl-C stops it so that it can be resumed.

    Raises: KronaError if the settings do not fit base, subject or machine, or if no trial
        could be trained.
    """
    console = console or Console()
    asked = config
    folder, config = open_folder(asked)
    if ignored := ignored_options(asked, config):
        console.print(f"warning: {', '.join(ignored)} ignored: the sweep goes on with its own")
    with folder.held(), ray_session(config.address):
        with console.status("waiting for the cluster's nodes"):
            plan = make_plan(config, node_resources(config.min_gpus))
        broker = ray.remote(num_cpus=0, resources=HEAD)(Broker).remote()
        stop = Stop()
        with slots(_slot_config(config, folder, plan, broker), plan, folder.ray, stop):
            return _Sweep(config, folder, plan, broker, stop, console).run()


def print_summary(result: SweepResult, console: Console) -> None:
    """The ranking, links into MLflow, and the best run's id on the last line."""
    console.print(ranking_table(result.rows, title=f"sweep {result.name}"))
    console.print(result.links, highlight=False, markup=False, soft_wrap=True)
    if not result.is_complete:
        console.print(
            f"stopped; continue with: {result.resume_command}", highlight=False, soft_wrap=True
        )
    if result.best is not None:
        console.print(f"best run: {result.best.run_id}", highlight=False)


class _Sweep:
    """One session of a sweep, while its slots are open."""

    def __init__(
        self,
        config: SweepConfig,
        folder: SweepFolder,
        plan: Plan,
        broker: Any,
        stop: Stop,
        console: Console,
    ) -> None:
        self._config, self._folder, self._plan = config, folder, plan
        self._broker, self._stop, self._console = broker, stop, console
        self._subject = config.experiment.subject_name

    def run(self) -> SweepResult:
        """Open the MLflow store while the slots load, search, conclude."""
        plan = self._plan
        slots = f"{plan.slots} slots of {plan.cpus_per_slot} cores and {plan.gpus_per_slot:g} GPUs"
        self._console.print(
            f"sweep {self._folder.name}: {self._config.num_trials} trials, {slots}, "
            f"recorded in {self._config.tracking()}",
            highlight=False,
        )
        with self._console.status("opening MLflow, loading base and photos"):
            tracker = Tracker(self._config.tracking())
            sweep_run = tracker.start_sweep(
                self._subject,
                self._folder.name,
                params=shared_params(self._config),
                tags=provenance(),
                is_resumed=self._config.resume,
            )
            show(tracker, self._recorded(sweep_run), rank(tracker, sweep_run.parent_id))
        state = "failed"
        try:
            is_complete = self._search(tracker, sweep_run)
            state = "finished" if is_complete else "stopped"
            return self._result(tracker, sweep_run, is_complete)
        except KeyboardInterrupt:
            state = "stopped"
            if self._folder.is_kept:
                command = self._folder.resume_command
                self._console.print(f"stopped; continue with: {command}", soft_wrap=True)
            raise
        finally:
            tracker.end(sweep_run.parent_id, state)

    def _search(self, tracker: Tracker, sweep_run: SweepRun) -> bool:
        """Run what is left of the trials. Returns whether all are done now."""
        with self._console.status("loading base and photos"):
            try:
                facts = ray.get(self._broker.facts.remote())
            except JobError as error:
                raise KronaError(str(error.cause)) from None  # type: ignore[attr-defined]
        for warning in facts["warnings"]:
            self._console.print(f"warning: {warning}", markup=False)
        sweep_run = replace(sweep_run, params={**sweep_run.params, **facts["params"]})
        tracker.log_params(sweep_run.parent_id, facts["params"])
        space = make_space(self._config, facts["factors"])
        self._folder.keep(replace(self._config, factors=space.factors))  # the study counts them
        tracker.log_dict(sweep_run.parent_id, space.describe(), "search_space.json")
        trials = self._config.num_trials
        search = StudySearch(
            space, self._folder.study, self._stop, trials=trials, seed=self._config.seed
        )
        done = search.num_finished
        if done < trials:
            callbacks = [
                RunStates(tracker, sweep_run, self._broker, self._stop),
                Progress(self._console, trials=trials, done=done, best=search.best_score),
            ]
            num_at_once = trials_at_once(self._config, self._plan, facts["pack"])
            self._tune(
                search, sweep_run, callbacks, num_trials=trials - done, num_at_once=num_at_once
            )
        return search.num_finished >= trials

    def _tune(
        self,
        search: StudySearch,
        sweep_run: SweepRun,
        callbacks: list[Any],
        *,
        num_trials: int,
        num_at_once: int,
    ) -> None:
        """Let Tune run trials until they are done or the sweep is stopped."""
        trial = ray.tune.with_parameters(run_trial, broker=self._broker, sweep_run=sweep_run)
        bundle = ray.tune.PlacementGroupFactory([HEAD])
        with self._stopped_by_signals():
            ray.tune.run(
                ray.tune.with_resources(trial, bundle),
                name="tune",
                storage_path=str(self._folder.ray),
                num_samples=num_trials,
                search_alg=search,
                scheduler=Pruner(search.study, max_steps=self._config.steps),
                max_concurrent_trials=num_at_once,
                stop=self._stop,
                callbacks=callbacks,
                reuse_actors=True,
                raise_on_failed_trial=False,
                verbose=0,
            )
        if self._stop.error is not None:
            raise KronaError(self._stop.error)

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """The first Ctrl-C (SIGTERM, SIGHUP) stops the search in order, a second one at once."""
        stops = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
        before = {number: signal.getsignal(number) for number in stops}

        def request(number: int, frame: object) -> None:
            self._stop.requested = True
            signal.signal(number, before[signal.Signals(number)])
            self._console.print("stopping; what is done is kept")

        for number in before:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _result(self, tracker: Tracker, sweep_run: SweepRun, is_complete: bool) -> SweepResult:
        if is_complete:  # the search knows of a pruned trial's end before its slot has recorded it
            ray.get(self._broker.settled.remote())
        rows = rank(tracker, sweep_run.parent_id)
        champion = best(rows)
        if is_complete:
            if champion is None:
                failure = next((row.failure for row in rows if row.failure), "none was finished")
                raise KronaError(f"no trial could be scored; the first failure: {failure}")
            FinalRound(self._config, self._broker, tracker, sweep_run, self._console).hold(rows)
            rows = record_ranks(tracker, rank(tracker, sweep_run.parent_id))
            champion = best(rows)
            with self._console.status("drawing the best trials"):
                conclude(tracker, sweep_run, self._folder, self._subject, rows)
                self._draw_sheet(sweep_run, rows)
                self._write_report(tracker, sweep_run)
        paths = show(tracker, self._recorded(sweep_run), rows)
        return SweepResult(
            name=self._folder.name,
            experiment=experiment_name(self._subject),
            parent_id=sweep_run.parent_id,
            rows=tuple(rows),
            best=champion,
            is_complete=is_complete,
            resume_command=self._folder.resume_command,
            links=link_lines(tracker.uri, paths),
        )

    def _recorded(self, sweep_run: SweepRun) -> PastSweep:
        return PastSweep(
            run_id=sweep_run.parent_id,
            experiment_id=sweep_run.experiment_id,
            name=self._folder.name,
            subject=self._subject,
        )

    def _draw_sheet(self, sweep_run: SweepRun, rows: list[Row]) -> None:
        """Have a slot draw the best trials; the search stands also without the picture."""
        job = sheet_job(sweep_run, rows)
        ray.get(self._broker.submit.remote(job))
        try:
            while ray.get(self._broker.next_report.remote(job.key)) is not None:
                pass
        except JobError as error:
            reason = str(error.cause)  # type: ignore[attr-defined]
            self._console.print(f"warning: no contact sheet: {reason}", markup=False)

    def _write_report(self, tracker: Tracker, sweep_run: SweepRun) -> None:
        """Keep a report; the search stands also without it."""
        try:
            log_report(tracker, self._recorded(sweep_run))
        except Exception as error:  # whatever a page cannot show, the sweep has found it
            reason = f"{type(error).__name__}: {error}; try: krona report {self._folder.name}"
            self._console.print(f"warning: no report: {reason}", markup=False)


def _slot_config(config: SweepConfig, folder: SweepFolder, plan: Plan, broker: Any) -> SlotConfig:
    return SlotConfig(
        broker=broker,
        experiment=replace(
            config.experiment, eval_every=config.eval_every, patience=config.patience
        ),
        choices=Choices(factors=config.factors, max_params=config.max_params),
        experiment_module=config.experiment_module,
        tracking_uri=config.tracking(),
        folder=folder.trials,
        threads=plan.cpus_per_slot,
        gpu_frac=min(1.0, plan.gpus_per_slot or 1.0),
        pack=config.pack or 1,
    )
