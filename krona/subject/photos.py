"""The subject's photos: a folder in; square pixel tensors, content hashes and captions out."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from krona.subject.pictures import list_photos, read_pictures


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
    """Read every image of `folder`: upright, sRGB, a square of it resized to `resolution`.

    The square is the middle, or holds the crop that the folder's subject.toml names.

    Raises: KronaError for a missing or empty folder, a broken image or caption, a crop that is
        none, or less than 8 pixels.
    Warns: of all in the folder or a photo that may not be as it was meant.
    """
    listed = list_photos(folder)
    arrays, hashes = [], []
    for picture in read_pictures(listed, resolution=resolution):
        arrays.append(np.asarray(picture.learned))
        hashes.append(picture.digest)
        for note in picture.notes:
            warnings.warn(f"photo {picture.listed.path} {note}", stacklevel=2)
    stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return Photos(
        names=tuple(photo.path.name for photo in listed),
        pixels=(stacked.float() / 127.5 - 1).contiguous(),
        hashes=tuple(hashes),
        captions=tuple(photo.said for photo in listed),
    )
