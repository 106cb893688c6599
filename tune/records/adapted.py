"""An adapter back on its base: a file or an MLflow run in, a base that draws the subject out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.attach import attach, read_origin
from krona.exchange.card import Showcase
from krona.exchange.origin import Origin
from krona.planning.budget import Sampling, fit_sampling
from krona.planning.place import Place
from tune.config.trial import TOYLAND
from tune.names import existing_store, experiment_name, image_key

if TYPE_CHECKING:
    from tune.records.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A base with an adapter on it, what prompts call the subject ("sks toy"), images at once."""

    base: Base
    subject_noun: str
    batch_size: int | None


def load_adapted(
    adapter: str | None,
    *,
    place: Place,
    sampling: Sampling,
    base: str | None = None,
    is_any_base: bool = False,
    tracking_uri: str | None = None,
) -> Adapted:
    """Load a base, put an adapter on it, and find how many images may be sampled at once.

    Args:
        adapter: a file or a run; None leaves the base plain, and {} in prompts stands, as it does
            where the adapter does not say what prompts call its subject.
        place, sampling: where the base goes, and what is to be sampled there.
        base: the checkpoint; None takes the adapter's own, or Toyland.
        is_any_base: accept another base than the one it was trained on.
    """
    path = None if adapter is None else find_adapter(adapter, tracking_uri=tracking_uri)
    origin = None if path is None else read_origin(path)
    source = base or TOYLAND if path is None or origin is None else base_of(path, origin, base)
    savings, batch_size = fit_sampling(source, sampling, place.precision, place.budget_bytes)
    loaded = place.load(source, savings)
    if path is not None:
        attach(loaded, path, is_any_base=is_any_base)
    noun = origin.trigger_phrase if origin is not None else None
    return Adapted(base=loaded, subject_noun=noun or "{}", batch_size=batch_size)


def base_of(path: Path, origin: Origin, base: str | None) -> str:
    """The checkpoint that was asked for, else the one that the adapter was trained on."""
    if base is not None:
        return base
    if origin.manifest is None:
        raise KronaError(f"{path} does not say which checkpoint it was made for; give --base")
    return origin.manifest.base_model


def find_adapter(
    name: str | None = None, *, subject: str | None = None, tracking_uri: str | None = None
) -> Path:
    """The adapter file of that path, or the one that an MLflow run holds.

    Args:
        name: a file, a PEFT folder or a run; None asks for the champion of `subject`, or of the
            newest sweep.
    Raises: KronaError if there is no such file, run or champion.
    """
    if name is not None and is_path(name):
        if not Path(name).exists():
            raise KronaError(f"adapter '{name}' is no file; give a .safetensors file or a run id")
        return Path(name)
    tracker, run = _recorded(name, subject, tracking_uri)
    return tracker.download_adapter(run)


def find_showcase(
    name: str | None = None, *, subject: str | None = None, tracking_uri: str | None = None
) -> Showcase:
    """The last scores and sample images of the run that find_adapter() takes the adapter from.

    Returns: an empty showcase for an adapter that is a file.
    """
    if name is not None and is_path(name):
        return Showcase()
    tracker, run = _recorded(name, subject, tracking_uri)
    prompts = read_origin(tracker.download_adapter(run)).prompts
    images = tracker.last_images(run)
    shown = [(prompt, images.get(image_key(prompt))) for prompt in prompts]
    return Showcase(
        samples=tuple((prompt, image) for prompt, image in shown if image is not None),
        scores=tracker.scores(run),
    )


def is_path(name: str) -> bool:
    """Whether an adapter's name is a path, and not a run."""
    return name.endswith((".safetensors", ".bin", ".pt", ".ckpt")) or Path(name).exists()


def _recorded(
    name: str | None, subject: str | None, tracking_uri: str | None
) -> "tuple[Tracker, str]":
    """The store, and the run or model version in it."""
    from tune.records.tracking import Tracker

    tracker = Tracker(existing_store(tracking_uri))
    return tracker, name or f"{experiment_name(subject or tracker.newest_sweep().subject)}@champion"
