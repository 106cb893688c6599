"""The families of checkpoints: a name or folder in; where it is, its family, its files out."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from krona.errors import KronaError
from krona.toyland.embedded import CHECKPOINT, intact

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


def component_files(folder: Path, family: Family) -> list[Path]:
    """Configs, tokenizers and safetensors of a checkpoint's components, in a fixed order."""
    return [
        path
        for component in COMPONENTS[family]
        for path in sorted((folder / component).glob("*"))
        if path.suffix in {".json", ".txt", ".safetensors"}
    ]


def identity_files(folder: Path, family: Family) -> list[Path]:
    """The files whose content is a checkpoint's identity, in a fixed order."""
    return [*component_files(folder, family), *sorted(folder.glob("scheduler/*.json"))]


def locate(source: str | Path, *, further: Iterable[str] = ()) -> Path:
    """The path of a checkpoint that load_base takes.

    Raises: KronaError if there is none; `further` are other names the caller would have taken.
    """
    if str(source) == "toyland":
        return intact(CHECKPOINT)
    path = Path(source).expanduser()
    if not path.exists():
        names = ", ".join(f"'{name}'" for name in ("toyland", *further))
        raise KronaError(
            f"checkpoint '{source}' does not exist; give {names}, a folder in diffusers layout "
            "or a .safetensors file"
        )
    if path.is_file() and path.suffix != ".safetensors":
        raise KronaError(
            f"checkpoint '{source}' is a '{path.suffix}' file; pickled checkpoints can run code, "
            "so they are not opened. Give its .safetensors version"
        )
    return path


def check_components(folder: Path, family: Family) -> None:
    """Raise unless every component of the family is there, with weights that are no pickles."""
    for component in COMPONENTS[family]:
        _check_component(folder, component)


def _check_component(folder: Path, component: str) -> None:
    files = {path.suffix for path in (folder / component).glob("*")}
    is_tokenizer = component.startswith("tokenizer")
    if not files:
        raise KronaError(f"checkpoint {folder} is incomplete: {component}/ is missing or empty")
    if not is_tokenizer and ".safetensors" not in files:
        pickled = " (it has pickled ones, which are not opened)" if ".bin" in files else ""
        raise KronaError(
            f"checkpoint {folder} is incomplete: {component}/ has no safetensors weights{pickled}"
        )
