"""A decoded picture of any depth in; 8 bits out, or why that cannot be."""

import numpy as np
from PIL import Image

from krona.errors import KronaError

_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def to_8_bits(image: Image.Image) -> Image.Image:
    """Map deeper grey to 8 bits, black to 0 and white to 255; leave every other mode.

    Raises: KronaError for values of which the file does not tell what is white.
    """
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;"):
        return image
    bits = _bits(image)
    if not bits:
        kind = {"F": "fractions", "I": "32-bit integers"}.get(image.mode, "16-bit integers")
        raise KronaError(
            f"holds {kind} (mode {image.mode} of {image.format}), of which nothing says what is "
            "white; save it with 8 or 16 bits"
        )
    white = 2**bits - 1
    values = np.asarray(image).astype(np.float32)
    grey = values * (255 / white)
    if image.format == "TIFF" and _tag(image, _TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow inverts the shallower ones itself
    mapped = Image.fromarray(grey.round().astype(np.uint8))
    mapped.info = {key: image.info[key] for key in ("icc_profile",) if key in image.info}
    clear = image.info.get("transparency")
    if clear is not None:
        mapped.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return mapped


def _bits(image: Image.Image) -> int | None:
    """How many bits the white of a deep grey image has, where its format says so."""
    if image.mode == "F":
        return None
    if image.format == "TIFF":
        return _tag(image, _TIFF_BITS) if image.mode.startswith("I;16") else None
    return 16 if image.format in {"PNG", "PPM", "JPEG2000", "HEIF"} else None


def _tag(image: Image.Image, tag: int) -> int:
    value = image.tag_v2.get(tag)  # type: ignore[attr-defined]
    return int(value[0] if isinstance(value, tuple) else value)
