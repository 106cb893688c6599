"""What a sweep and its slots write to MLflow: runs, curves, images, adapters and models go in."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from safetensors import safe_open

from krona.errors import KronaError
from tune.names import (
    CHAMPION_METRIC,
    FAILURE_TAG,
    KIND_TAG,
    MODEL_TRAINING,
    NOTE_TAG,
    PARENT_TAG,
    SQLITE,
    STATE_TAG,
    SUBJECT_TAG,
    SWEEP_TAG,
    TRIAL_TAG,
    SweepRun,
    artifact_root,
    experiment_name,
)
from tune.records.store import Store

CHAMPION = "champion"
MAX_NOTE = 8000  # characters that every store takes in a run's tag


class Tracker(Store):
    """Writes one MLflow store too; who writes also reads, so that one object serves both."""

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

    def tag(self, run_id: str, name: str, value: str) -> None:
        """Give a run a tag, in place of what it had under that name."""
        self._client.set_tag(run_id, name, value)

    def set_note(self, run_id: str, text: str) -> None:
        """Describe a run on its page, in Markdown."""
        self.tag(run_id, NOTE_TAG, text[:MAX_NOTE])

    def tag_experiment(self, experiment_id: str, tags: Iterable[tuple[str, str]] = ()) -> None:
        """Mark an experiment as model training, and give it more tags."""
        for name, value in ((KIND_TAG, MODEL_TRAINING), *tags):
            self._client.set_experiment_tag(experiment_id, name, value)

    def end(self, run_id: str, state: str) -> None:
        """Close a run as finished, pruned, failed or stopped."""
        status = {"failed": "FAILED", "stopped": "KILLED"}.get(state, "FINISHED")
        self._client.set_tag(run_id, STATE_TAG, state)
        self._client.set_terminated(run_id, status)

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


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)) for name, value in values.items()]


def _tags(values: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in values.items()]
