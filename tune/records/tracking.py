"""The one file that knows MLflow: runs, curves, images, adapters and models go in, rows come out.

A sweep is a parent run in experiment `krona-<subject>`, each trial a child run found by its tag.
"""

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from safetensors import safe_open

from krona.errors import KronaError, nearest
from tune.names import (
    BEST_STEP,
    CHAMPION_METRIC,
    FAILURE_TAG,
    KIND_TAG,
    MODEL_TRAINING,
    NOTE_TAG,
    PARENT_TAG,
    SCORES,
    SQLITE,
    STATE_TAG,
    SUBJECT_TAG,
    SWEEP_TAG,
    TRIAL_TAG,
    PastSweep,
    Point,
    RunFacts,
    SweepRun,
    TrialRun,
    artifact_root,
    experiment_name,
    newest_images,
)

CHAMPION = "champion"
ADAPTER = "adapter/adapter.safetensors"
MAX_NOTE = 8000  # characters that every store takes in a run's tag

logging.getLogger("mlflow").setLevel(logging.WARNING)  # making its tables is no news


class Tracker:
    """Reads and writes one MLflow store.

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

    def start_sweep(
        self,
        subject: str,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        is_resumed: bool = False,
    ) -> SweepRun:
        """Create the parent run of sweep `name`, or get that of a resumed one.

        Raises: KronaError if a new sweep's name has trials already.
        """
        experiment_id = self._experiment(experiment_name(subject))
        run = self._find(experiment_id, {SWEEP_TAG: name})
        if run is not None and not is_resumed:
            if self.trials(run.info.run_id):
                raise KronaError(
                    f"sweep '{name}' of {subject} is recorded in {self.uri} already; give another "
                    "--name, or --resume to continue it"
                )
            self._client.delete_run(run.info.run_id)  # params of a run cannot be corrected
            run = None
        if run is None:
            run = self._client.create_run(
                experiment_id, run_name=name, tags={**tags, SWEEP_TAG: name, SUBJECT_TAG: subject}
            )
            self._client.log_batch(run.info.run_id, params=_params(params))
        self._client.update_run(run.info.run_id, status="RUNNING")
        return SweepRun(
            uri=self.uri,
            experiment_id=experiment_id,
            parent_id=run.info.run_id,
            params=params,
            tags=tags,
        )

    def trial_run(
        self,
        sweep: SweepRun,
        key: str,
        settings: Mapping[str, Any],
        *,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Get or create the child run of trial `key`; return its id."""
        own = {PARENT_TAG: sweep.parent_id, TRIAL_TAG: key}
        run = self._find(sweep.experiment_id, own)
        if run is None:
            run = self._client.create_run(
                sweep.experiment_id, run_name=f"trial-{key}", tags={**sweep.tags, **own}
            )
        if not run.data.params:  # new, or its process died before it wrote them
            params = _params({**sweep.params, **settings})
            self._client.log_batch(run.info.run_id, params=params, tags=_tags(tags or {}))
        self._client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def log_report(
        self,
        run_id: str,
        step: int,
        metrics: Mapping[str, float],
        images: Iterable[tuple[str, Image.Image]] = (),
    ) -> None:
        """Write one step's numbers, and its images under their keys for the UI's grid."""
        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(run_id, metrics=points)
        for key, image in images:
            self._client.log_image(run_id, image, key=key, step=step)

    def log_adapter(self, run_id: str, path: Path) -> None:
        """Keep the adapter, and its manifest in readable form beside it."""
        self._client.log_artifact(run_id, str(path), "adapter")
        self._client.log_dict(run_id, read_manifest(path), "adapter/manifest.json")

    def log_picture(self, run_id: str, picture: Image.Image, name: str) -> None:
        """Keep a picture as an artifact."""
        self._client.log_image(run_id, picture, artifact_file=name)

    def log_file(self, run_id: str, path: Path) -> None:
        """Keep a file as an artifact."""
        self._client.log_artifact(run_id, str(path))

    def log_dict(self, run_id: str, content: Mapping[str, Any], name: str) -> None:
        """Keep a mapping as a JSON artifact."""
        self._client.log_dict(run_id, dict(content), name)

    def log_failure(self, run_id: str, text: str) -> None:
        """Keep what went wrong: in full as an artifact, its last line as a tag."""
        self._client.log_text(run_id, text, "failure.txt")
        self._client.set_tag(run_id, FAILURE_TAG, text.strip().splitlines()[-1][:500])

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Add what a run does not hold yet; what it holds stands."""
        known = self._client.get_run(run_id).data.params
        new = {name: value for name, value in params.items() if name not in known}
        self._client.log_batch(run_id, params=_params(new))

    def set_note(self, run_id: str, text: str) -> None:
        """Describe a run on its page, in Markdown."""
        self._client.set_tag(run_id, NOTE_TAG, text[:MAX_NOTE])

    def tag_experiment(self, experiment_id: str, tags: Iterable[tuple[str, str]] = ()) -> None:
        """Mark an experiment as model training, and give it more tags."""
        for name, value in ((KIND_TAG, MODEL_TRAINING), *tags):
            self._client.set_experiment_tag(experiment_id, name, value)

    def end(self, run_id: str, state: str) -> None:
        """Close a run as finished, pruned, failed or stopped."""
        status = {"failed": "FAILED", "stopped": "KILLED"}.get(state, "FINISHED")
        self._client.set_tag(run_id, STATE_TAG, state)
        self._client.set_terminated(run_id, status)

    def trials(self, parent_id: str) -> list[TrialRun]:
        """All children of a sweep, in the order of their keys."""
        experiment_id = self._client.get_run(parent_id).info.experiment_id
        runs = self._client.search_runs(
            [experiment_id], f"tags.`{PARENT_TAG}` = '{parent_id}'", max_results=50_000
        )
        return sorted(map(_trial_run, runs), key=lambda trial: trial.key)

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

    def register_champion(self, subject: str, run_id: str, adapter: Path, score: float) -> str:
        """Make an adapter a version of model `krona-<subject>`, alias champion; no pickle."""
        client, name = self._client, experiment_name(subject)
        run = client.get_run(run_id)
        model = client.create_logged_model(
            run.info.experiment_id, name=name, source_run_id=run_id, model_type="krona-adapter"
        )
        client.log_model_artifact(model.model_id, str(adapter))
        client.finalize_logged_model(model.model_id, "READY")
        now = int(time.time() * 1000)
        metric = Metric(CHAMPION_METRIC, score, now, 0, model.model_id)
        client.log_batch(run_id, metrics=[metric])
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # mlflow 3.17 looks up the models:/ source of a new version through this, not the client
        mlflow.set_tracking_uri(self.uri)
        version = client.create_model_version(
            name, f"models:/{model.model_id}", run_id, model_id=model.model_id
        ).version
        client.set_registered_model_alias(name, CHAMPION, version)
        return str(version)

    def ping(self) -> int:
        """Number of experiments in the store; raises where it cannot be read."""
        return len(self._client.search_experiments())

    def download_adapter(self, name: str, folder: Path | None = None) -> Path:
        """Fetch the adapter of a run, or of a model version such as `krona-backpack@champion`."""
        try:
            run_id = self._run_id(name)
            path = self._client.download_artifacts(run_id, ADAPTER, str(folder) if folder else None)
        except (MlflowException, OSError) as error:
            raise KronaError(f"no adapter in run '{name}' of {self.uri}: {error}") from error
        return Path(path)

    def scores(self, name: str) -> dict[str, float]:
        """The scores of a run's or model version's best evaluation; a finalist's anew."""
        metrics = self._client.get_run(self._run_id(name)).data.metrics
        found = {
            score: metrics.get(f"confirmed_{score}", metrics.get(f"best_{score}"))
            for score in SCORES
        }
        return {score: value for score, value in found.items() if value is not None}

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

    def image_keys(self, run_id: str) -> list[str]:
        """The keys that a run has images under."""
        files = self._client.list_artifacts(run_id, "images")
        return list(newest_images(file.path for file in files))

    def run_name(self, name: str) -> str:
        """What a run, or the run of a model version, is called."""
        return str(self._client.get_run(self._run_id(name)).info.run_name)

    def files(self, run_id: str) -> list[str]:
        """The artifacts that a run has outside folders."""
        return [file.path for file in self._client.list_artifacts(run_id) if not file.is_dir]

    def _run_id(self, name: str) -> str:
        model, found, alias = name.partition("@")
        if not found:
            return name
        return str(self._client.get_model_version_by_alias(model, alias).run_id)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = artifact_root(self.uri).as_uri() if self.uri.startswith(SQLITE) else None
        try:
            return self._client.create_experiment(name, location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._experiment(name)

    def _find(self, experiment_id: str, tags: Mapping[str, str]) -> Run | None:
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        runs = self._client.search_runs([experiment_id], query, max_results=1)
        return runs[0] if runs else None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in an adapter file's metadata."""
    with safe_open(path, framework="numpy") as file:
        manifest: dict[str, Any] = json.loads((file.metadata() or {}).get("krona", "{}"))
    return manifest


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


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)) for name, value in values.items()]


def _tags(values: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in values.items()]
