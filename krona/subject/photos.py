"""The subject's photos: a folder in, square pixel tensors, content hashes and captions out."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from krona.errors import KronaError

MIN_SIDE_PX = 8
_COMPANIONS = {".toml", ".md"}  # files that belong beside the photos: no warning
_CAPTION = ".txt"


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Photos of one subject, square and ready for the autoencoder.

    names: file names.  pixels: (n, 3, r, r) in [-1, 1].  hashes: sha256 of each image's pixels.
    captions: what the .txt file of each photo's name says; None where there is none.
    """

    names: tuple[str, ...]
    pixels: Tensor
    hashes: tuple[str, ...]
    captions: tuple[str | None, ...]


def load_photos(folder: Path, *, resolution: int) -> Photos:
    """Read every image of `folder`: upright, RGB, short side resized to `resolution`, centre crop.

    Args:
        resolution: side of the result in pixels.
    Raises: KronaError for a missing or empty folder, a broken image or caption, or an image under
        8 pixels.
    Warns: of files that are no images, and of images smaller than `resolution`.
    """
    paths = _image_paths(folder)
    images = [_square(_open(path), path, resolution) for path in paths]
    arrays = [np.asarray(image) for image in images]
    stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return Photos(
        names=tuple(path.name for path in paths),
        pixels=(stacked.float() / 127.5 - 1).contiguous(),
        hashes=tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays),
        captions=tuple(map(_caption, paths)),
    )


def _image_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise KronaError(f"photos folder {folder} does not exist; give a folder with 3-6 photos")
    known = {end for end, form in Image.registered_extensions().items() if form in Image.OPEN}
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    images = [path for path in files if path.suffix.lower() in known]
    captions = {path.with_suffix(_CAPTION) for path in images}
    for path in files:
        if path not in captions.union(images) and path.suffix.lower() not in _COMPANIONS:
            warnings.warn(f"{path} is no image that can be read; it is left out", stacklevel=3)
    if not images:
        raise KronaError(f"photos folder {folder} holds no image; put 3-6 photos there (PNG, JPEG)")
    return images


def _caption(photo: Path) -> str | None:
    path = photo.with_suffix(_CAPTION)
    if not path.exists():
        return None
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise KronaError(f"caption {path} is broken: {error}; write plain text in UTF-8") from error


def _open(path: Path) -> Image.Image:
    """Decode an image, upright and in RGB; transparent parts become white."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise KronaError(
            f"photo {path} is broken: {error}; replace it or take it out of the folder"
        ) from error


def _square(image: Image.Image, path: Path, resolution: int) -> Image.Image:
    short = min(image.size)
    if short < MIN_SIDE_PX:
        raise KronaError(
            f"photo {path} is {image.width}x{image.height} px: nothing can be learned from under "
            f"{MIN_SIDE_PX} px; take it out or replace it by one of {resolution} px or more"
        )
    if short < resolution:
        warnings.warn(
            f"photo {path} is {image.width}x{image.height} px and is enlarged to {resolution} px; "
            "expect blur",
            stacklevel=4,
        )
    return ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
