"""A folder in diffusers layout in; out, its components, each of the class that the index names.

Only what is asked for is looked up: an index may name parts of other versions of the libraries.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from krona.base.families import COMPONENTS, Family
from krona.base.quiet import check_weights
from krona.errors import KronaError

_LIBRARIES = ("diffusers", "transformers")
SCHEDULER = "scheduler"


def component_class(folder: Path, component: str) -> Any:
    """The class of a component, as model_index.json names it.

    Raises: KronaError if it names none, or none that the installed libraries have.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    entry = index.get(component)
    library, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if library not in _LIBRARIES or not name:
        raise KronaError(
            f"{folder} names no {component} of diffusers or transformers in its model_index.json, "
            f"but {library}.{name}"
        )
    module = import_module(library)
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise KronaError(
            f"{folder} names {library}.{name} as its {component}, which {library} "
            f"{module.__version__} does not have; give a folder that names a class of it"
        )
    return found


def load_components(folder: Path, family: Family, dtype: torch.dtype) -> dict[str, Any]:
    """The components that the family uses, by name; the autoencoder is in float32.

    Raises: KronaError if one is damaged, or lacks weights.
    """
    dtypes = {"vae": torch.float32}
    return {
        name: _load(folder, name, dtypes.get(name, dtype))
        for name in (*COMPONENTS[family], SCHEDULER)
    }


def _load(folder: Path, component: str, dtype: torch.dtype) -> Any:
    found = component_class(folder, component)
    path = folder / component
    try:
        if component == SCHEDULER or component.startswith("tokenizer"):
            return found.from_pretrained(path, local_files_only=True)
        model, loaded = found.from_pretrained(
            path,
            dtype=dtype,
            variant=_variant(path),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # transformers logs their names, and raises without them
        )
    except Exception as error:  # what a damaged file raises is the libraries' own affair
        raise KronaError(f"{component} of checkpoint {folder} cannot be loaded: {error}") from error
    check_weights(loaded, model, f"checkpoint {folder}")
    return model


def _variant(path: Path) -> str | None:
    """fp16 where a component has no other weights: "model.fp16.safetensors", or shards of it."""
    stems = [weights.stem for weights in path.glob("*.safetensors")]
    is_full = any("." not in stem for stem in stems)
    return "fp16" if not is_full and any(".fp16" in stem for stem in stems) else None
