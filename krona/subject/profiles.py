"""A colour space that a file names without describing it in; its ICC profile out."""

import struct
from dataclasses import dataclass
from io import BytesIO

from PIL.ImageCms import ImageCmsProfile

_D50 = (0.9642, 1.0, 0.8249)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Red, green and blue as XYZ adapted to D50, and the curve: (g,), or (g, a, b, c, d) of ICC."""

    red: tuple[float, ...]
    green: tuple[float, ...]
    blue: tuple[float, ...]
    curve: tuple[float, ...]


DISPLAY_P3 = Space(
    red=(0.51512, 0.24120, -0.00105),
    green=(0.29198, 0.69225, 0.04189),
    blue=(0.15710, 0.06657, 0.78407),
    curve=(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
)
ADOBE_RGB = Space(
    red=(0.60974, 0.31111, 0.01947),
    green=(0.20528, 0.62567, 0.06087),
    blue=(0.14919, 0.06322, 0.74457),
    curve=(563 / 256,),
)


def profile(space: Space) -> ImageCmsProfile:
    """The profile of a colour space, as ICC.1:2010 lays one out."""
    return ImageCmsProfile(BytesIO(profile_bytes(space)))


def profile_bytes(space: Space) -> bytes:
    """A display profile of three primaries and one curve, as a file holds it."""
    curve = b"para" + struct.pack(">4xHH", 0 if len(space.curve) == 1 else 3, 0)
    curve += _fixed(space.curve)
    colours = zip(b"rgb", (space.red, space.green, space.blue), strict=True)
    parts = [(b"wtpt", _xyz(_D50)), *((b"%cXYZ" % name, _xyz(xyz)) for name, xyz in colours)]
    parts += [(b"%cTRC" % name, curve) for name in b"rgb"]
    at = 128 + 4 + 12 * len(parts)
    table, data = struct.pack(">I", len(parts)), b""
    for name, part in parts:
        table += name + struct.pack(">II", at + len(data), len(part))
        data += part
    return _header(at + len(data)) + table + data


def _header(num_bytes: int) -> bytes:
    """The 128 bytes before the tags; what is left zero says: unknown."""
    version = 4 << 24
    start = struct.pack(">I4xI", num_bytes, version) + b"mntrRGB XYZ "
    return (start.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + _fixed(_D50).ljust(60, b"\0")


def _xyz(xyz: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(xyz)


def _fixed(numbers: tuple[float, ...]) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))
