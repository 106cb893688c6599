"""The families of checkpoints: a folder in diffusers layout in; its family, its files out."""

import json
from collections.abc import Container
from pathlib import Path
from typing import Literal

from krona.base.hub import hub_name
from krona.base.hub_files import VAE
from krona.base.weight_files import choose_weights, read_names
from krona.errors import KronaError

Family = Literal["sd", "sdxl"]
COMPONENTS: dict[Family, tuple[str, ...]] = {
    "sd": ("unet", "vae", "text_encoder", "tokenizer"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
}
_FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
}


def pipeline_family(folder: Path) -> Family:
    """The family that a folder in diffusers layout says it is of.

    Raises: KronaError if it does not say, or names a pipeline that cannot be trained here.
    """
    index = folder / "model_index.json"
    try:
        name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except FileNotFoundError:
        raise KronaError(
            f"{folder} holds no model_index.json, so it is no checkpoint in diffusers layout; give "
            "the folder that contains unet/, vae/ and text_encoder/"
        ) from None
    except (ValueError, AttributeError) as error:
        raise KronaError(f"{index} is damaged: {error}; fetch the checkpoint again") from error
    if name not in _FAMILIES:
        raise KronaError(f"{folder} is a {name}; supported: {', '.join(_FAMILIES)}")
    return _FAMILIES[name]


def prefers_half(folder: Path) -> bool:
    """Whether half precision is read where a component has both: of a hub's cache alone.

    There other programs may have put the full one beside what was fetched.
    """
    return any(hub_name(path) is not None for path in (folder, folder.parent))


def component_files(folder: Path, family: Family, *, without: Container[str] = ()) -> list[Path]:
    """The files that a checkpoint's components are loaded from, in a fixed order."""
    return [
        folder / component / name
        for component in COMPONENTS[family]
        if component not in without
        for name in read_names(_names(folder / component), prefers_half=prefers_half(folder))
    ]


def identity_files(folder: Path, family: Family, vae: Path | None = None) -> list[Path]:
    """The files whose content is a checkpoint's identity, in a fixed order.

    Args:
        vae: of the autoencoder, if it is not the checkpoint's own.
    """
    without = () if vae is None else (VAE,)
    files = component_files(folder, family, without=without)
    return [*files, *sorted(folder.glob("scheduler/*.json")), *vae_files(vae)]


def vae_files(vae: Path | None) -> list[Path]:
    """The files whose content is the identity of an autoencoder that is given, if one is."""
    if vae is None or vae.is_file():
        return [] if vae is None else [vae]
    names = read_names(_names(vae), prefers_half=prefers_half(vae))
    return [vae / name for name in names]


def check_components(folder: Path, family: Family, *, without: Container[str] = ()) -> None:
    """Raise unless every component of the family is there, with weights that are no pickles."""
    for component in COMPONENTS[family]:
        if component not in without:
            _check_component(folder, component)


def _check_component(folder: Path, component: str) -> None:
    names = _names(folder / component)
    told = f"checkpoint {folder} is incomplete: {component}/"
    if not names:
        raise KronaError(f"{told} is missing or empty")
    if component.startswith("tokenizer"):
        return
    weights = choose_weights(names, prefers_half=prefers_half(folder))
    if not weights.names:
        is_pickled = any(name.endswith(".bin") for name in names)
        pickled = " (it has pickled ones, which are not opened)" if is_pickled else ""
        raise KronaError(f"{told} has no safetensors weights{pickled}")
    if not weights.is_whole:
        raise KronaError(f"{told} lacks some of its shards; it has {', '.join(weights.names)}")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))
