"""A folder of photos in; out, one by one, each photo with the square of it that is learned."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from krona.errors import KronaError
from krona.subject.crop import WHOLE, Box, check_names, square
from krona.subject.decode import decode
from krona.subject.description import read_crops
from krona.subject.folder import image_paths, read_caption

MIN_SIDE_PX = 8


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A photo before it is read: its caption file's text, and what subject.toml keeps of it."""

    path: Path
    said: str | None
    crop: Box


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A photo as it is learned.

    whole: all of it, upright, in sRGB.  box: the square's place in it, in pixels.
    learned: the square at the size of training.  digest: sha256 of its pixels.
    notes: what is worth telling, each to follow "photo x.png".
    """

    listed: Listed
    whole: Image.Image
    box: Box
    learned: Image.Image
    digest: str
    notes: tuple[str, ...]


def list_photos(folder: Path) -> list[Listed]:
    """The photos of a folder by name, with all that is said of them; no image is read.

    Raises: KronaError for no photos, a broken caption, a crop of a photo that is not there.
    Warns: as image_paths does.
    """
    paths = image_paths(folder)
    crops = read_crops(folder)
    check_names(crops, [path.name for path in paths])
    return [
        Listed(path=path, said=read_caption(path), crop=crops.get(path.name, WHOLE))
        for path in paths
    ]


def read_pictures(photos: list[Listed], *, resolution: int) -> Iterator[Picture]:
    """Read photos, and resize the square of each to `resolution` pixels.

    Raises: KronaError for a photo that is broken, or a square of less than 8 pixels.
    """
    seen: dict[str, str] = {}
    for photo in photos:
        whole, notes = decode(photo.path)
        box = square(photo.crop, whole.width, whole.height)
        small = _judge(photo, whole, box[2] - box[0], resolution)
        size = resolution, resolution
        learned = whole.resize(size, Image.Resampling.LANCZOS, box=box)
        digest = hashlib.sha256(learned.tobytes()).hexdigest()
        twin = seen.setdefault(digest, photo.path.name)
        twice = f"is the same picture as {twin}, which counts twice: take one out"
        yield Picture(
            listed=photo,
            whole=whole,
            box=box,
            learned=learned,
            digest=digest,
            notes=(*notes, *small, *([twice] if twin != photo.path.name else [])),
        )


def _judge(photo: Listed, whole: Image.Image, side: float, resolution: int) -> tuple[str, ...]:
    what = f"is {whole.width}x{whole.height} px"
    if photo.crop != WHOLE:
        what = f"is cropped to {side:.0f}x{side:.0f} px"
    if side < MIN_SIDE_PX:
        raise KronaError(
            f"photo {photo.path} {what}: nothing can be learned from under {MIN_SIDE_PX} px; take "
            f"it out or replace it by one of {resolution} px or more"
        )
    enlarged = f"{what} and is enlarged to {resolution} px; expect blur"
    return (enlarged,) if side < resolution else ()
