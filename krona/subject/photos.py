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
from krona.subject.folder import CAPTION, image_paths

MIN_SIDE_PX = 8


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
    paths = image_paths(folder)
    images = [_square(_open(path), path, resolution) for path in paths]
    arrays = [np.asarray(image) for image in images]
    stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return Photos(
        names=tuple(path.name for path in paths),
        pixels=(stacked.float() / 127.5 - 1).contiguous(),
        hashes=tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays),
        captions=tuple(map(_caption, paths)),
    )


def _caption(photo: Path) -> str | None:
    path = photo.with_suffix(CAPTION)
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
