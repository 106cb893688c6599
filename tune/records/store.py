"""What one MLflow store holds: sweeps, trials, curves, images and adapters out as plain data.

A sweep is a parent run in experiment `krona-<subject>`, each trial a child run found by its tag.
"""

import logging
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from PIL import Image

from krona.errors import KronaError, nearest
from tune.names import (
    BEST_STEP,
    PARENT_TAG,
    SCORES,
    STATE_TAG,
    SUBJECT_TAG,
    SWEEP_TAG,
    TRIAL_TAG,
    PastSweep,
    Point,
    RunFacts,
    TrialRun,
    experiment_name,
    newest_images,
)

ADAPTER = "adapter/adapter.safetensors"

logging.getLogger("mlflow").setLevel(logging.WARNING)  # making its tables is no news


class Store:
    """Reads one MLflow store.

    Raises: KronaError if it cannot be opened.
    """

    def __init__(self, uri: str) -> None:
        try:
            self._client = MlflowClient(uri)
        except Exception as error:  # MLflow's, SQLAlchemy's, or of a database driver not installed
            said = str(error).partition("\n")[0]
            raise KronaError(
                f"MLflow store {uri} cannot be opened; give a database or a server, such as "
                "sqlite:///mlflow.db or http://127.0.0.1:5000 (--tracking-uri, "
                f"$MLFLOW_TRACKING_URI): {said}"
            ) from error
        self.uri = uri
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

    def ping(self) -> int:
        """Number of experiments in the store; raises where it cannot be read."""
        return len(self._client.search_experiments())

    def newest_sweep(self, subject: str | None = None) -> PastSweep:
        """The newest sweep of a subject, or of all. Raises: KronaError if there is none."""
        if subject is None:
            named = f"name LIKE '{experiment_name('%')}'"
            experiments: list[Experiment] = self._client.search_experiments(filter_string=named)
        else:
            found = self._client.get_experiment_by_name(experiment_name(subject))
            experiments = [found] if found else []
        runs = self._sweeps(experiments, max_results=1)
        if not runs:
            raise KronaError(
                f"no sweep of {subject or 'any subject'} in {self.uri}; make one first"
            )
        return _past_sweep(runs[0])

    def find_sweep(self, name: str) -> PastSweep:
        """The newest sweep of that name, or the one whose parent run's id it is.

        Raises: KronaError if there is none.
        """
        named = f"name LIKE '{experiment_name('%')}'"
        sweeps = [
            _past_sweep(run)
            for run in self._sweeps(self._client.search_experiments(filter_string=named))
        ]
        for sweep in sweeps:
            if name in (sweep.name, sweep.run_id):
                return sweep
        known = nearest(name, {sweep.name for sweep in sweeps})
        raise KronaError(f"no sweep '{name}' in {self.uri}; {known}")

    def trials(self, parent_id: str) -> list[TrialRun]:
        """All children of a sweep, in the order of their keys."""
        experiment_id = self._client.get_run(parent_id).info.experiment_id
        runs = self._client.search_runs(
            [experiment_id], f"tags.`{PARENT_TAG}` = '{parent_id}'", max_results=50_000
        )
        return sorted(map(_trial_run, runs), key=lambda trial: trial.key)

    def facts(self, run_id: str) -> RunFacts:
        """What a run was told, and when it ran."""
        run = self._client.get_run(run_id)
        ended = run.info.end_time
        return RunFacts(
            params=run.data.params,
            tags=run.data.tags,
            started_s=run.info.start_time / 1000,
            ended_s=None if ended is None else ended / 1000,
        )

    def curve(self, run_id: str, name: str) -> tuple[Point, ...]:
        """All values of a metric by rising step, the last one of each; those that are finite."""
        history = self._client.get_metric_history(run_id, name)
        points = {m.step: m for m in sorted(history, key=lambda m: (m.step, m.timestamp))}
        return tuple(
            Point(step=m.step, value=m.value, time_s=m.timestamp / 1000)
            for m in points.values()
            if math.isfinite(m.value)
        )

    def scores(self, name: str) -> dict[str, float]:
        """The scores of a run's or model version's best evaluation; a finalist's anew."""
        metrics = self._client.get_run(self._run_id(name)).data.metrics
        found = {
            score: metrics.get(f"confirmed_{score}", metrics.get(f"best_{score}"))
            for score in SCORES
        }
        return {score: value for score, value in found.items() if value is not None}

    def run_name(self, name: str) -> str:
        """What a run, or the run of a model version, is called."""
        return str(self._client.get_run(self._run_id(name)).info.run_name)

    def files(self, run_id: str) -> list[str]:
        """The artifacts that a run has outside folders."""
        return [file.path for file in self._client.list_artifacts(run_id) if not file.is_dir]

    def image_keys(self, run_id: str) -> list[str]:
        """The keys that a run has images under."""
        files = self._client.list_artifacts(run_id, "images")
        return list(newest_images(file.path for file in files))

    def best_images(self, name: str) -> dict[str, Image.Image]:
        """The image of the best evaluation under each key that log_report() was given."""
        run_id = self._run_id(name)
        step = self._client.get_run(run_id).data.metrics.get(BEST_STEP)
        files = self._client.list_artifacts(run_id, "images")
        newest = newest_images((f.path for f in files), None if step is None else int(step))
        with tempfile.TemporaryDirectory() as folder:
            paths = (self._client.download_artifacts(run_id, p, folder) for p in newest.values())
            images = (Image.open(path).convert("RGB") for path in paths)
            return dict(zip(newest, images, strict=True))

    def fetch(self, run_id: str, name: str, scratch: Path) -> Path | None:
        """An artifact, or a folder of them, on this disk; None if the run has none of that name.

        Args:
            scratch: gets a copy, unless the store lies on this disk already.
        """
        is_here = self._client.get_run(run_id).info.artifact_uri.startswith(("file:", "/"))
        try:
            if is_here:
                path = Path(self._client.download_artifacts(run_id, name))
            else:
                folder = scratch / run_id
                folder.mkdir(parents=True, exist_ok=True)
                path = Path(self._client.download_artifacts(run_id, name, str(folder)))
        except (MlflowException, OSError):
            return None
        return path if path.exists() else None

    def download_adapter(self, name: str, folder: Path | None = None) -> Path:
        """Fetch the adapter of a run, or of a model version such as `krona-backpack@champion`."""
        try:
            run_id = self._run_id(name)
            path = self._client.download_artifacts(run_id, ADAPTER, str(folder) if folder else None)
        except (MlflowException, OSError) as error:
            raise KronaError(f"no adapter in run '{name}' of {self.uri}: {error}") from error
        return Path(path)

    def _sweeps(self, experiments: Iterable[Experiment], *, max_results: int = 1000) -> list[Run]:
        """Parent runs, the newest first."""
        return list(
            self._client.search_runs(
                [experiment.experiment_id for experiment in experiments],
                f"tags.`{SWEEP_TAG}` LIKE '%'",
                max_results=max_results,
                order_by=["attributes.start_time DESC"],
            )
        )

    def _run_id(self, name: str) -> str:
        model, found, alias = name.partition("@")
        if not found:
            return name
        return str(self._client.get_model_version_by_alias(model, alias).run_id)


def _trial_run(run: Run) -> TrialRun:
    tags = run.data.tags
    is_running = run.info.status == "RUNNING"
    return TrialRun(
        run_id=run.info.run_id,
        key=tags.get(TRIAL_TAG, ""),
        state="running" if is_running else tags.get(STATE_TAG, "running"),
        params=run.data.params,
        metrics=run.data.metrics,
        tags=tags,
    )


def _past_sweep(run: Run) -> PastSweep:
    info, tags = run.info, run.data.tags
    return PastSweep(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        name=tags[SWEEP_TAG],
        subject=tags[SUBJECT_TAG],
    )
