"""Grey deeper than 8 bits keeps its shades, or is refused by name."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from krona.errors import KronaError
from krona.subject.decode import decode

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)


def save_pgm(path: Path) -> None:
    path.write_bytes(b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes())


def save_16_bit_heic(path: Path) -> None:
    whole = pillow_heif.from_bytes(mode="I;16", size=(64, 64), data=RAMP.tobytes())
    whole.save(path, quality=-1)


def save_deep(path: Path) -> None:
    Image.fromarray(RAMP).save(path)


def tiff(values: bytes, *, order: str, bits: int, photometric: int = 1) -> bytes:
    """A 64x64 grey TIFF in one strip, in Intel's (<) or Motorola's (>) order of bytes."""
    tags = {256: 64, 257: 64, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 64}
    offset = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = {tag: struct.pack(order + "HHIHxx", tag, 3, 1, v) for tag, v in tags.items()}
    for tag, value in ((273, offset), (279, len(values))):
        entries[tag] = struct.pack(order + "HHII", tag, 4, 1, value)
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    table = b"".join(entry for _, entry in sorted(entries.items()))
    return start + struct.pack(order + "H", len(entries)) + table + bytes(4) + values


def save_motorola(path: Path) -> None:
    path.write_bytes(tiff(RAMP.astype(">u2").tobytes(), order=">", bits=16))


def save_white_is_zero(path: Path) -> None:
    path.write_bytes(tiff((65535 - RAMP).tobytes(), order="<", bits=16, photometric=0))


def save_12_bit(path: Path) -> None:
    first, second = (RAMP >> 4).reshape(-1, 2).astype(int).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    path.write_bytes(tiff(packed.astype(np.uint8).tobytes(), order="<", bits=12))


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.png", save_deep),
        ("a.tif", save_deep),
        ("a.jp2", save_deep),
        ("a.pgm", save_pgm),
        ("a.heic", save_16_bit_heic),
        ("motorola.tif", save_motorola),
        ("white_is_zero.tif", save_white_is_zero),
        ("12.tif", save_12_bit),
    ],
)
def test_deep_grey_keeps_its_shades(
    name: str, save: Callable[[Path], None], tmp_path: Path
) -> None:
    save(tmp_path / name)
    image, notes = decode(tmp_path / name)
    assert notes == ()
    assert np.abs(np.asarray(image) - RAMP[..., None] / 257).max() <= 1


def test_a_clear_shade_of_16_bit_grey_becomes_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png", transparency=0)
    pixels = np.asarray(decode(tmp_path / "a.png")[0])
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[32, 0].tolist() == [128, 128, 128]


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        ("a.tif", np.int32, "32-bit integers"),
        ("a.tif", np.float32, "fractions"),
        ("a.pfm", np.float32, "fractions"),
    ],
)
def test_values_of_unknown_white_are_refused(
    name: str, dtype: type, said: str, tmp_path: Path
) -> None:
    Image.fromarray(RAMP.astype(dtype)).save(tmp_path / name)
    with pytest.raises(KronaError, match=rf"photo .*{name} holds .*{said}.*what is white; save"):
        decode(tmp_path / name)
