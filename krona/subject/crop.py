"""What of a photo is to be kept, as subject.toml says it, in; the square that is learned, out."""

from collections.abc import Iterable, Mapping
from typing import Any

from krona.errors import KronaError, nearest

Box = tuple[float, float, float, float]  # left, top, right, bottom
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def check_crops(table: Any, source: str) -> dict[str, Box]:
    """The crops of subject.toml's [photos], by the photo's name.

    Raises: KronaError unless each is four fractions of the photo: left, top, right, bottom.
    """
    if not isinstance(table, dict) or not all(isinstance(v, dict) for v in table.values()):
        raise KronaError(
            f'{source}: photos must be tables such as [photos."1.jpg"] with a line '
            f"crop = [0.1, 0.0, 0.9, 0.6] each, got {table!r}"
        )
    for name, said in table.items():
        for key in said.keys() - {"crop"}:
            raise KronaError(f"{source}: photo '{name}' has an unknown key '{key}'; known: crop")
    return {name: _box(said["crop"], name, source) for name, said in table.items() if said}


def _box(value: Any, name: str, source: str) -> Box:
    if _is_fractions(value):
        left, top, right, bottom = map(float, value)
        if left < right and top < bottom:
            return left, top, right, bottom
    raise KronaError(
        f"{source}: crop = {value!r} of photo '{name}' must be [left, top, right, bottom], "
        "left < right and top < bottom, each a fraction of the photo's width or height from 0 to "
        "1 (pixels divided by it)"
    )


def _is_fractions(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(v) in (int, float) and 0 <= v <= 1 for v in value)
    )


def check_names(crops: Mapping[str, Box], photos: Iterable[str]) -> None:
    """Raise KronaError for a crop of a photo that there is not."""
    known = set(photos)
    for name in crops.keys() - known:
        raise KronaError(f"subject.toml crops photo '{name}', not there: {nearest(name, known)}")


def square(crop: Box, width: int, height: int) -> Box:
    """The square that is learned, in pixels: the smallest that holds the crop, inside the photo.

    Where the photo is too narrow for that, the largest in its middle.
    """
    left, top, right, bottom = (v * n for v, n in zip(crop, (width, height) * 2, strict=True))
    side = min(max(right - left, bottom - top), width, height)
    x = _start(left, right, side, width)
    y = _start(top, bottom, side, height)
    return x, y, x + side, y + side


def _start(low: float, high: float, side: float, limit: int) -> float:
    """Where a side begins that is centred on low..high, moved to lie within 0..limit."""
    return min(max(low + (high - low - side) * 0.5, 0.0), limit - side)
