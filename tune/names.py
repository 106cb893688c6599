"""What the search's processes say to each other: plain data and names, nothing heavy to load."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from krona.errors import KronaError

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
HTTP = ("http://", "https://")
ANSWER_S = 5.0

# MLflow's name of an image that was logged with a key and a step
_IMAGE = re.compile(
    r"images/(?P<key>\w+)[+%]step[+%](?P<step>\d+)[+%]timestamp[+%](?P<time>\d+).*\.png$"
)

_NAME = re.compile(r"\w[\w -]*")  # what a model, a filter and a folder of any store may hold

# The names of metrics and tags in MLflow; docs/records.md says what each means.
METRIC = "balance"
TIME = "step"
MAX_KEY = 120  # a file name holds 255 bytes, and MLflow adds about 90
SCORES = (METRIC, "subject", "prompt", "clip_t", "clip_i", "dino", "toyvit")
BEST, BEST_STEP = "best_balance", "best_step"  # of a trial's evaluations the best, and when it was
NUM_PARAMS = "num_params"
SPENT = TRAIN_S, SCORE_S, WAIT_S = "train_s", "score_s", "wait_s"
SLOT = "slot"
RANK = "rank"
# of a finalist, scored again with other noise; halves of 95 % intervals
CONFIRMED, HALF_WIDTH, NUM_CONFIRMED = (
    "confirmed_balance",
    "confirmed_half_width",
    "confirmed_images",
)
PROMPTS_HALF_WIDTH = "confirmed_prompts_half_width"
BEHIND, BEHIND_HALF_WIDTH = "behind_champion", "behind_champion_half_width"
SEEDS, SEEDS_HALF_WIDTH, NUM_SEEDS = "seeds_balance", "seeds_half_width", "num_seeds"
CHAMPION_METRIC = "champion_balance"
PAPER_DEFAULT = "paper_default"
TRIAL_TAG = "tune_trial_id"
SWEEP_TAG = "krona.sweep"
SUBJECT_TAG = "krona.subject"
STATE_TAG = "krona.state"
FAILURE_TAG = "failure"
PRUNED_TAG = "pruned"
# MLflow's own
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
VIEW_TAG = "mlflow.sharedViewState."
KIND_TAG, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"

DOES_NOT_FIT = "does_not_fit"


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """Where a sweep is recorded, and what each of its runs carries."""

    uri: str
    experiment_id: str
    parent_id: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PastSweep:
    """A sweep found in MLflow."""

    run_id: str
    experiment_id: str
    name: str
    subject: str


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """A trial as MLflow holds it."""

    run_id: str
    key: str
    state: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run was told and when it ran, in seconds; `ended_s` is None while it runs."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    started_s: float
    ended_s: float | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A number of a run: its step, and when it was written."""

    step: int
    value: float
    time_s: float


def check_name(what: str, name: str, option: str) -> None:
    """Raise KronaError for a name that not every part of a store takes as it is."""
    if not _NAME.fullmatch(name):
        raise KronaError(
            f"{what} '{name}' must be letters, digits, spaces, '_' and '-', the first a letter or "
            f"digit; give such a name with {option}"
        )


def experiment_name(subject: str) -> str:
    """Name of a subject's experiment and of its registered model."""
    return f"krona-{subject}"


def image_key(prompt: str) -> str:
    """The name of a prompt's sample image in a run: only ASCII letters, digits and underscores.

    It ends in a hash of the prompt where more than spaces had to go.
    """
    key = re.sub(r"\W+", "_", prompt, flags=re.ASCII)[:MAX_KEY]
    if "_" not in prompt and key == prompt.replace(" ", "_"):
        return key
    return f"{key}_{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def best_scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """The scores of a trial's best evaluation, under names of their own: best_balance, …"""
    return {f"best_{name}": metrics[name] for name in SCORES if name in metrics}


def newest_images(paths: Iterable[str], step: int | None = None) -> dict[str, str]:
    """The path of the last logged image of each key; MLflow keeps a thumbnail beside each.

    Args:
        step: of the images, where not the last step's are wanted.
    """
    found: dict[str, tuple[int, int, str]] = {}
    for path in paths:
        if (match := _IMAGE.search(path)) and step in (None, int(match["step"])):
            candidate = int(match["step"]), int(match["time"]), path
            found[match["key"]] = max(candidate, found.get(match["key"], candidate))
    return {key: path for key, (_, _, path) in found.items()}


def images_by_step(paths: Iterable[str]) -> dict[tuple[str, int], str]:
    """The path of the image under each key at each step, the newer one of two."""
    found: dict[tuple[str, int], tuple[int, str]] = {}
    for path in paths:
        if match := _IMAGE.search(path):
            at, candidate = (match["key"], int(match["step"])), (int(match["time"]), path)
            found[at] = max(candidate, found.get(at, candidate))
    return {at: path for at, (_, path) in found.items()}


def resolve_tracking_uri(uri: str | None = None) -> str:
    """The given store, else $MLFLOW_TRACKING_URI, else an sqlite file in the working folder.

    An sqlite path becomes absolute, since slots work in other folders.
    """
    uri = uri or os.environ.get(TRACKING_VARIABLE) or f"{SQLITE}mlflow.db"
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def existing_store(uri: str | None = None) -> str:
    """Like `resolve_tracking_uri`, for a store to read from. Raises: KronaError if it is not there.

    MLflow itself would make an empty database.
    """
    resolved = resolve_tracking_uri(uri)
    if resolved.startswith(SQLITE) and not Path(resolved.removeprefix(SQLITE)).exists():
        raise KronaError(
            f"no records at {resolved}: run `make sweep` first, or name another store "
            f"(--tracking-uri, ${TRACKING_VARIABLE})"
        )
    check_answers(resolved)
    return resolved


def check_answers(uri: str) -> None:
    """Raise KronaError if the store is a server that is away; MLflow would try for minutes."""
    if not uri.startswith(HTTP):
        return
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_S).close()
    except HTTPError:
        return  # whoever says no is there
    except (OSError, HTTPException) as error:
        raise KronaError(
            f"no MLflow server answers at {uri} ({error}); start it (`krona ui`), or name another "
            f"store (--tracking-uri, ${TRACKING_VARIABLE})"
        ) from error


def artifact_root(uri: str | None = None) -> Path:
    """Folder of the artifacts of an sqlite store: `mlartifacts` beside the database."""
    return Path(resolve_tracking_uri(uri).removeprefix(SQLITE)).parent / "mlartifacts"


def is_final(result: Mapping[str, Any]) -> bool:
    """Whether a trial's result is that of its last step."""
    return bool(result.get("is_final"))
