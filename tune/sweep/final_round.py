"""The finalists' round on a sweep's slots: rows in; what MLflow holds of the finalists grows.

Where a slot cannot draw a finalist, or train it again, the sweep says so and goes by what it knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from pydantic import TypeAdapter
from rich.console import Console

from evals.interval import Estimate, Looks, over_seeds
from tune.config.sweep import SweepConfig
from tune.config.trial import TrialSettings
from tune.names import NUM_SEEDS, PAPER_DEFAULT, SEEDS, SEEDS_HALF_WIDTH, SweepRun
from tune.records.ranking import Row
from tune.records.tracking import Tracker
from tune.slots.broker import Job, JobError
from tune.sweep.finals import finalists, race

IMAGES_OF_A_SEED = 4  # of each prompt


class FinalRound:
    """Scores the finalists of a sweep again, and trains them again with further seeds."""

    def __init__(
        self,
        config: SweepConfig,
        broker: Any,
        tracker: Tracker,
        sweep_run: SweepRun,
        console: Console,
    ) -> None:
        self._config, self._broker, self._tracker = config, broker, tracker
        self._sweep_run, self._console = sweep_run, console

    def hold(self, rows: Sequence[Row]) -> None:
        """Record the balance of each finalist over fresh images, and over seeds where asked."""
        chosen = {row.run_id: row for row in finalists(rows, self._config.num_finalists)}
        with self._console.status("scoring the best trials again") as status:

            def say(standing: Mapping[str, Estimate]) -> None:
                said = (f"{chosen[run].key} {_said(found)}" for run, found in standing.items())
                status.update(f"scoring the best trials again: {', '.join(said)}")

            limit = self._config.num_final_images
            finals = race(list(chosen), self._draw, max_images=limit, say=say)
        for run, final in finals.items():
            self._tracker.log_report(run, chosen[run].best_step or 0, final.metrics())
            self._tracker.log_dict(run, final.looks.lists(), "confirmed.json")
        if self._config.confirm:
            with self._console.status("training the finalists again with further seeds"):
                self._confirm([chosen[run] for run in finals], self._config.confirm)

    def _draw(self, runs: Sequence[str], first: int, num: int) -> dict[str, Looks]:
        """Have the slots look at runs, one job for an image of each prompt."""
        jobs = {run: [self._look(run, first + i) for i in range(num)] for run in runs}
        for of_all in zip(*jobs.values(), strict=True):
            ray.get([self._broker.submit.remote(job) for job in of_all])
        return {run: looks for run in runs if (looks := self._seen(run, jobs[run])) is not None}

    def _look(self, run: str, image: int) -> Job:
        images = {"first": image, "num_per_prompt": 1}
        payload = {"sweep_run": self._sweep_run, "run_id": run, "images": images}
        return Job(key=f"look-{run}-{image}", kind="look", payload=payload)

    def _seen(self, run: str, jobs: Sequence[Job]) -> Looks | None:
        try:
            told = ray.get([self._broker.next_report.remote(job.key) for job in jobs])
        except JobError as error:
            self._warn(f"run {run[:8]} is not scored again", error)
            return None
        looks = Looks.of(told[0])
        for more in told[1:]:
            looks = looks.with_more(Looks.of(more))
        return looks

    def _confirm(self, rows: Sequence[Row], num_seeds: int) -> None:
        """Train each again with further seeds, and record the mean of their balances."""
        jobs = {row.run_id: self._further_seeds(row, num_seeds) for row in rows}
        done = self._train([job for of_row in jobs.values() for job in of_row])
        looks = self._draw(list(done.values()), 0, IMAGES_OF_A_SEED)
        for row in rows:
            runs = [done[job.key] for job in jobs[row.run_id] if job.key in done]
            balances = [looks[run].balance for run in runs if run in looks]
            if len(balances) < 2:
                self._console.print(f"warning: trial {row.key} has no two more seeds to go by")
                continue
            mean, half_width = over_seeds(balances)
            told = {SEEDS: mean, SEEDS_HALF_WIDTH: half_width, NUM_SEEDS: float(len(balances))}
            self._tracker.log_report(row.run_id, row.best_step or 0, told)

    def _further_seeds(self, row: Row, num_seeds: int) -> list[Job]:
        """The jobs that train a finalist with further seeds, recorded below its own run."""
        params = self._tracker.facts(row.run_id).params
        settings = TypeAdapter(TrialSettings).validate_python(
            {name: params[name] for name in TrialSettings.names() if name in params}
        )
        below = replace(self._sweep_run, parent_id=row.run_id)
        return [
            Job(
                key=f"{row.key}-seed-{seed}",
                payload={
                    "settings": vars(replace(settings, seed=seed)),
                    PAPER_DEFAULT: False,
                    "sweep_run": below,
                },
            )
            for seed in range(settings.seed + 1, settings.seed + 1 + num_seeds)
        ]

    def _train(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Train what jobs ask for, and close its runs. Returns: those that ended well, by key."""
        done = self._wait_for(jobs)
        runs = {}
        for job in jobs:
            where, settings = job.payload["sweep_run"], job.payload["settings"]
            runs[job.key] = self._tracker.trial_run(where, job.key, settings)
            self._tracker.end(runs[job.key], "finished" if job.key in done else "failed")
        return {key: run for key, run in runs.items() if key in done}

    def _wait_for(self, jobs: Sequence[Job]) -> set[str]:
        """Wait until jobs are over. Returns: the keys of those that did not fail."""
        ray.get([self._broker.submit.remote(job) for job in jobs])
        waiting = {self._broker.next_report.remote(job.key): job.key for job in jobs}
        done = set()
        while waiting:
            (told,), _ = ray.wait(list(waiting), num_returns=1)
            key = waiting.pop(told)
            try:
                if ray.get(told) is None:
                    done.add(key)
                else:
                    waiting[self._broker.next_report.remote(key)] = key
            except JobError as error:
                self._warn(f"trial {key} failed", error)
        return done

    def _warn(self, what: str, error: JobError) -> None:
        reason = str(error.cause).strip().splitlines()[-1]  # type: ignore[attr-defined]
        self._console.print(f"warning: {what}: {reason}", markup=False)


def _said(found: Estimate) -> str:
    return f"{found.balance:.3f} ± {found.half_width:.3f}"
