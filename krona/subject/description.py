"""A folder's subject.toml in; what it says of the subject and its photos, checked, out."""

import tomllib
from pathlib import Path
from typing import Any

from krona.errors import KronaError, nearest
from krona.subject.crop import Box, check_crops

_KEYS = frozenset({"name", "class", "identifier", "prompts", "photos"})


def read_description(folder: Path) -> dict[str, Any]:
    """The keys of subject.toml; none where there is no such file.

    Raises: KronaError for a file that is no TOML, an unknown key, a value of the wrong kind.
    """
    path = folder / "subject.toml"
    if not path.exists():
        return {}
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KronaError(f"{path} is no valid TOML: {error}") from error
    for key, value in said.items():
        _check(key, value, path)
    return said


def read_crops(folder: Path) -> dict[str, Box]:
    """What subject.toml says is to be kept of which photo, in fractions of it."""
    return check_crops(read_description(folder).get("photos", {}), str(folder / "subject.toml"))


def _check(key: str, value: Any, path: Path) -> None:
    if key not in _KEYS:
        raise KronaError(f"{path} has an unknown key '{key}': {nearest(key, _KEYS)}")
    if key == "photos":
        check_crops(value, str(path))
    elif not (_is_texts(value) if key == "prompts" else isinstance(value, str)):
        wanted = "a list of texts" if key == "prompts" else "a text"
        raise KronaError(f"{path}: {key} must be {wanted}, got {value!r}")


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
