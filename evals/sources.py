"""Names of encoders in; an error out for what cannot be one, before anything heavy is loaded."""

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from krona.errors import KronaError

TOYLAND = "toyland"
_WEIGHTS = (".pt", ".bin", ".safetensors")


def check_clip(source: str, models: Collection[str] | None = None) -> None:
    """Raise KronaError unless load_clip() knows such a source; weights are not looked at.

    Args:
        models: open_clip's, where it is loaded; else those that it brings.
    """
    model, _, pretrained = source.partition(":")
    folder = Path(source)
    is_there = source == TOYLAND or (folder / "open_clip_config.json").exists()
    if not is_there and (folder.is_dir() or model not in (models or clip_models())):
        raise KronaError(
            f"scorer '{source}' is neither 'toyland', a folder with open_clip_config.json, "
            "nor one of open_clip's models; 'ViT-B-32:openai' is the usual choice"
        )
    if pretrained.endswith(_WEIGHTS) and not Path(pretrained).is_file():
        raise KronaError(
            f"scorer '{source}': there is no weights file {pretrained}; give one, or a local "
            "folder: --scorer path/to/open_clip_folder"
        )


def clip_models() -> set[str]:
    """The models that open_clip has; it takes seconds to import, and lists a file of each."""
    found = find_spec("open_clip")
    assert found
    assert found.origin
    return {path.stem for path in (Path(found.origin).parent / "model_configs").glob("*.json")}


def check_dino(source: str) -> None:
    """Raise KronaError for a folder of a DINO encoder that is not there, or holds no model."""
    is_folder = source.startswith((".", "/", "~")) or Path(source).exists()
    if is_folder and not (Path(source) / "config.json").exists():
        raise KronaError(
            f"DINO encoder '{source}' is no folder with a config.json; give one that transformers "
            "loads, or leave --dino out"
        )
