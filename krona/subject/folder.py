"""A folder of photos in; out, which of its files are photos, without reading any."""

import warnings
from pathlib import Path

from PIL import Image

from krona.errors import KronaError

CAPTION = ".txt"
_COMPANIONS = {".toml", ".md"}  # files that belong beside the photos: no warning


def image_paths(folder: Path) -> list[Path]:
    """The images of a folder, by name.

    Raises: KronaError if there is no such folder, or no image in it.
    Warns: of files that are neither images nor belong to one.
    """
    if not folder.is_dir():
        raise KronaError(f"photos folder {folder} does not exist; give a folder with 3-6 photos")
    known = {end for end, form in Image.registered_extensions().items() if form in Image.OPEN}
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    images = [path for path in files if path.suffix.lower() in known]
    captions = {path.with_suffix(CAPTION) for path in images}
    for path in files:
        if path not in captions.union(images) and path.suffix.lower() not in _COMPANIONS:
            warnings.warn(f"{path} is no image that can be read; it is left out", stacklevel=3)
    if not images:
        raise KronaError(f"photos folder {folder} holds no image; put 3-6 photos there (PNG, JPEG)")
    return images
