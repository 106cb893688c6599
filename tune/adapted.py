"""An adapter back on its base: a file or an MLflow run in, a base that draws the subject out."""

from dataclasses import dataclass
from pathlib import Path

from krona.adapter_file import load_adapter
from krona.checkpoint import Base, load_base
from krona.errors import KronaError
from krona.inject import Adapter, inject


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A base with an adapter on it, and what prompts call the subject ("sks toy")."""

    base: Base
    subject_noun: str


def load_adapted(
    adapter: str | None, *, base: str | None = None, tracking_uri: str | None = None
) -> Adapted:
    """Load a base and put an adapter on it.

    Args:
        adapter: a file or a run; None leaves the base plain, and {} in prompts stands.
        base: the checkpoint; None takes the adapter's own, or Toyland.
    """
    if adapter is None:
        return Adapted(base=load_base(base or "toyland"), subject_noun="{}")
    path = find_adapter(adapter, tracking_uri=tracking_uri)
    manifest = load_adapter(path)[1]
    loaded = load_base(base or manifest.base_model)
    attach(loaded, path)
    return Adapted(base=loaded, subject_noun=f"{manifest.identifier} {manifest.class_noun}")


def find_adapter(
    name: str | None = None, *, subject: str | None = None, tracking_uri: str | None = None
) -> Path:
    """The adapter file of that path, or the one that an MLflow run holds.

    Args:
        name: a file or a run; None asks for the champion of `subject`, or of the newest sweep.
    Raises: KronaError if there is no such file, run or champion.
    """
    if name is not None and (name.endswith(".safetensors") or Path(name).exists()):
        if not Path(name).is_file():
            raise KronaError(f"adapter '{name}' is no file; give a .safetensors file or a run id")
        return Path(name)
    from tune.records import existing_store, experiment_name
    from tune.tracking import Tracker

    tracker = Tracker(existing_store(tracking_uri))
    champion = f"{experiment_name(subject or tracker.newest_sweep().subject)}@champion"
    return tracker.download_adapter(name or champion)


def attach(base: Base, path: Path) -> Adapter:
    """Inject the adapter of `path` into `base` with its trained weights."""
    state, manifest = load_adapter(path)
    adapter = inject(base.unet, manifest.config, seed=0)
    try:
        adapter.load_state_dict(state)
    except BaseException:
        adapter.eject()
        raise
    return adapter
