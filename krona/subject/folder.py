"""A folder of photos in; out, which of its files are photos, and what their captions say."""

import os
import warnings
from pathlib import Path

from krona.errors import KronaError
from krona.subject.decode import photo_suffixes

FEW, MANY = 3, 100
_CAPTION = ".txt"
_COMPANIONS = {".toml", ".md"}  # files that belong beside the photos: no warning
_HIDDEN = {"thumbs.db", "desktop.ini"}  # on Windows; elsewhere a dot begins the name


def check_is_folder(folder: Path) -> None:
    """Raise KronaError unless there is such a folder, and it can be read."""
    if folder.is_file():
        raise KronaError(f"{folder} is a file; give the folder that holds it: {folder.parent}")
    if not folder.is_dir():
        raise KronaError(f"photos folder {folder} does not exist; give a folder with 3-6 photos")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise KronaError(f"photos folder {folder} may not be read; change its permissions")


def image_paths(folder: Path) -> list[Path]:
    """The images of a folder, by name.

    Raises: KronaError if there is no such folder, or no image in it.
    Warns: of files that are neither images nor belong to one, of folders that hold images, and
        of too few or too many images.
    """
    check_is_folder(folder)
    files = [path for path in sorted(folder.iterdir()) if not _is_hidden(path)]
    images = list(filter(_is_image, files))
    inner = {path: _num_images(path) for path in files if path.is_dir()}
    within = [f"{path.name} holds {number}" for path, number in inner.items() if number]
    if not images:
        hint = f"; its folder {within[0]}: give that one" if within else ""
        raise KronaError(
            f"photos folder {folder} holds no image{hint or '; put 3-6 photos there (PNG, JPEG)'}"
        )
    stems = {path.stem for path in images}
    for path in files:
        if path not in images and path.is_file() and not _is_companion(path, stems):
            _warn(f"{path} is no image that can be read; it is left out")
    if within:
        _warn(f"photos in folders of {folder} are left out ({', '.join(within)}): move them up")
    if not FEW <= len(images) <= MANY:
        _warn(f"{folder} holds {_count(len(images))}; 3-6 different ones teach a subject best")
    return images


def read_caption(photo: Path) -> str | None:
    """What the .txt file of a photo's name says, on one line; None where there is none.

    Raises: KronaError for a caption that is empty, or not in UTF-8.
    """
    path = next(
        (p for p in map(photo.with_suffix, (_CAPTION, _CAPTION.upper())) if p.exists()), None
    )
    if path is None:
        return None
    try:
        said = " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise KronaError(f"caption {path} is broken: {error}; write plain text in UTF-8") from error
    if not said:
        raise KronaError(
            f"caption {path} is empty; write what {photo.name} shows, {{}} for the subject "
            "('a {} on a sofa'), or delete the file"
        )
    return said


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _HIDDEN


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in photo_suffixes() and path.is_file()


def _is_companion(path: Path, stems: set[str]) -> bool:
    suffix = path.suffix.lower()
    return suffix in _COMPANIONS or (suffix == _CAPTION and path.stem in stems)


def _num_images(folder: Path) -> int:
    if not os.access(folder, os.R_OK | os.X_OK):
        return 0
    return sum(_is_image(path) and not _is_hidden(path) for path in folder.iterdir())


def _count(number: int) -> str:
    return "1 photo" if number == 1 else f"{number} photos"


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
