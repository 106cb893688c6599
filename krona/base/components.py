"""A folder in diffusers layout in; out, its components, each of the class that the index names.

Only what is asked for is looked up: an index may name parts of other versions of the libraries.
"""

import json
from collections.abc import Container
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from krona.base.families import COMPONENTS, Family, prefers_half
from krona.base.quiet import check_weights
from krona.base.weight_files import choose_weights
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
    return library_class(folder, component, library, name)


def library_class(folder: Path, component: str, library: str, name: str) -> Any:
    """The class that a folder names. Raises KronaError if the installed library has none such."""
    module = import_module(library)
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise KronaError(
            f"{folder} names {library}.{name} as its {component}, which {library} "
            f"{module.__version__} does not have; give a folder that names a class of it"
        )
    return found


def load_components(
    folder: Path, family: Family, dtype: torch.dtype, *, without: Container[str] = ()
) -> dict[str, Any]:
    """The components that the family uses, by name; the autoencoder is in float32.

    Args:
        without: components that are left out.
    Raises: KronaError if one is damaged, or lacks weights.
    """
    dtypes = {"vae": torch.float32}
    return {
        name: _load(folder, name, dtypes.get(name, dtype))
        for name in (*COMPONENTS[family], SCHEDULER)
        if name not in without
    }


def _load(folder: Path, component: str, dtype: torch.dtype) -> Any:
    found = component_class(folder, component)
    path = folder / component
    if component != SCHEDULER and not component.startswith("tokenizer"):
        return load_model(found, path, dtype, told=f"{component} of checkpoint {folder}")
    try:
        return found.from_pretrained(path, local_files_only=True)
    except Exception as error:  # what a damaged file raises is the libraries' own affair
        raise KronaError(f"{component} of checkpoint {folder} cannot be loaded: {error}") from error


def load_model(model_class: Any, path: Path, dtype: torch.dtype, *, told: str) -> Any:
    """A module of a class of diffusers or transformers, from the folder of its config and weights.

    Args:
        told: what an error calls it.
    Raises: KronaError if the folder is damaged, or lacks weights.
    """
    names = [file.name for file in path.glob("*")]
    is_half = choose_weights(names, prefers_half=prefers_half(path)).is_half
    try:
        model, loaded = model_class.from_pretrained(
            path,
            dtype=dtype,
            variant="fp16" if is_half else None,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # transformers logs their names, and raises without them
        )
    except Exception as error:  # what a damaged file raises is the libraries' own affair
        raise KronaError(f"{told} cannot be loaded: {error}") from error
    check_weights(loaded, model, told)
    return model
