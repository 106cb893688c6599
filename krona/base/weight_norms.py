"""The size of frozen weights: a checkpoint's name and layers' paths in, ‖W‖ of each out."""

from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open

from krona.adapter.inject import TEXT_ENCODERS, is_of_text
from krona.base.content_hash import content_hash
from krona.base.families import identity_files, pipeline_family
from krona.base.source import BaseSource
from krona.errors import KronaError

_TEXT_PREFIX = "text_model."  # CLIP's files have it; since transformers 5 its modules do not


def weight_norms(
    source: str | BaseSource, paths: Iterable[str], *, base_hash: str
) -> dict[str, float]:
    """The Frobenius norm of each layer's frozen weight, read one by one: no model is built.

    Args:
        source: "toyland", a folder in diffusers layout, or a hub's id that was fetched before.
        paths: of attention projections, as in Base.network.
        base_hash: content hash that the checkpoint must have.
    Raises: KronaError if it is not there, is another one, or is a single file, whose layers have
        other names.
    """
    source = BaseSource.of(source)
    folder = source.locate(is_at_hand=True)
    if not folder.is_dir():
        raise KronaError(f"checkpoint '{source}' is a single file; its layers have other names")
    vae = source.locate_vae(is_at_hand=True)
    if content_hash(identity_files(folder, pipeline_family(folder), vae)) != base_hash:
        raise KronaError(f"checkpoint '{source}' is not the one that the adapter was trained on")
    by_component: dict[str, dict[str, str]] = {}
    for path in paths:
        component, key = _locate_weight(path)
        by_component.setdefault(component, {})[key] = path
    norms = {
        path: norm
        for component, keys in by_component.items()
        for path, norm in _norms(folder / component, keys).items()
    }
    wanted = {path for keys in by_component.values() for path in keys.values()}
    if wanted != set(norms):
        raise KronaError(f"checkpoint '{source}' has no weight of {min(wanted - set(norms))}")
    return norms


def _locate_weight(path: str) -> tuple[str, str]:
    """The component that holds a layer, and its weight's name there."""
    if not is_of_text(path):
        return "unet", f"{path}.weight"
    component, _, rest = path.partition(".")
    assert component in TEXT_ENCODERS
    return component, f"{rest.removeprefix(_TEXT_PREFIX)}.weight"


def _norms(folder: Path, keys: dict[str, str]) -> dict[str, float]:
    norms: dict[str, float] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (it is no mapping)
                path = keys.get(name.removeprefix(_TEXT_PREFIX))
                if path is not None:
                    norms[path] = float(weights.get_tensor(name).float().norm())
    return norms
