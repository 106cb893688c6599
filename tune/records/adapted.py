"""What an adapter is called: a file or an MLflow run in; its file, its base and its samples out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from krona.base.source import BaseSource
from krona.errors import KronaError
from krona.exchange.attach import read_origin
from krona.exchange.card import Showcase
from krona.exchange.origin import Origin
from tune.names import existing_store, experiment_name, image_key

ADAPTER_FILE = "adapter.safetensors"  # what each of krona's own is called, whatever it holds
TRIALS = "trials"  # the folder of a sweep's folder that holds them

if TYPE_CHECKING:
    from tune.records.store import Store


def base_of(
    path: Path,
    origin: Origin,
    base: str | None,
    *,
    vae: str | None = None,
    config: Path | None = None,
) -> BaseSource:
    """The checkpoint that was asked for, else the one that the adapter was trained on."""
    if base is not None:
        return BaseSource(name=base, vae=vae, config=config)
    if origin.manifest is None:
        raise KronaError(f"{path} does not say which checkpoint it was made for; give --base")
    trained = origin.manifest.source
    return replace(trained, vae=vae or trained.vae, config=config or trained.config)


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
    store, run = _recorded(name, subject, tracking_uri)
    return store.download_adapter(run)


def find_showcase(
    name: str | None = None, *, subject: str | None = None, tracking_uri: str | None = None
) -> Showcase:
    """The best scores and sample images of the run that find_adapter() takes the adapter from.

    Returns: an empty showcase for an adapter that is a file.
    """
    if name is not None and is_path(name):
        return Showcase()
    store, run = _recorded(name, subject, tracking_uri)
    prompts = read_origin(store.download_adapter(run)).prompts
    images = store.best_images(run)
    shown = [(prompt, images.get(image_key(prompt))) for prompt in prompts]
    return Showcase(
        samples=tuple((prompt, image) for prompt, image in shown if image is not None),
        scores=store.scores(run),
    )


def short_names(names: Sequence[str], *, tracking_uri: str | None = None) -> list[str]:
    """What tells adapters apart: each run's name, or as few of a path's last parts as do.

    A run whose name another one has too is told by the start of its id before it.
    """
    parts = [_parts(name, tracking_uri) for name in names]
    return [_shortest(own, parts) for own in parts]


def _parts(name: str, tracking_uri: str | None) -> tuple[str, ...]:
    if is_path(name):
        path = Path(name)
        is_krona = path.name == ADAPTER_FILE and path.parent.name
        return tuple(part for part in (path.parent if is_krona else path).parts if part != TRIALS)
    if "@" in name:
        return (name,)
    store, run = _recorded(name, None, tracking_uri)
    return run[:8], store.run_name(run)


def _shortest(own: tuple[str, ...], all_parts: Sequence[tuple[str, ...]]) -> str:
    others = [parts for parts in all_parts if parts != own]
    depths = range(1, len(own) + 1)
    told = (n for n in depths if all(parts[-n:] != own[-n:] for parts in others))
    return "/".join(own[-next(told, len(own)) :])


def is_path(name: str) -> bool:
    """Whether an adapter's name is a path, and not a run."""
    return name.endswith((".safetensors", ".bin", ".pt", ".ckpt")) or Path(name).exists()


def _recorded(
    name: str | None, subject: str | None, tracking_uri: str | None
) -> "tuple[Store, str]":
    """The store, and the run or model version in it."""
    from tune.records.store import Store

    store = Store(existing_store(tracking_uri))
    return store, name or f"{experiment_name(subject or store.newest_sweep().subject)}@champion"
