"""Colours of any space come out as sRGB within 2 levels, or are refused by name."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from krona.errors import KronaError
from krona.subject.decode import decode, photo_suffixes
from krona.subject.profiles import ADOBE_RGB, DISPLAY_P3, Space, profile_bytes

APPLE_GREEN = (120, 180, 60)  # sRGB
SRGB_XY = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_XY = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
ADOBE_XY = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
WHITE = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])

photo_suffixes()  # so that HEIC can be written here too


def to_xyz(xy: tuple[tuple[float, float], ...]) -> np.ndarray:
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in xy]).T
    return columns * np.linalg.solve(columns, WHITE)


def encoded(
    srgb: tuple[int, ...], xy: tuple[tuple[float, float], ...], gamma: float | None = None
) -> tuple[int, ...]:
    """What a file in another space holds for a colour of sRGB, computed from chromaticities."""
    c = np.array(srgb) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    there = np.linalg.solve(to_xyz(xy), to_xyz(SRGB_XY) @ linear)
    srgb_curve = np.where(there <= 0.0031308, there * 12.92, 1.055 * there ** (1 / 2.4) - 0.055)
    coded = srgb_curve if gamma is None else there ** (1 / gamma)
    return tuple(int(v) for v in (coded * 255).round())


def plain(color: tuple[int, ...]) -> Image.Image:
    return Image.new("RGB", (16, 16), color)


def middle(path: Path) -> np.ndarray:
    image, notes = decode(path)
    assert notes == ()
    return np.asarray(image)[8, 8].astype(int)


@pytest.mark.parametrize(
    ("space", "xy", "gamma"),
    [(DISPLAY_P3, P3_XY, None), (ADOBE_RGB, ADOBE_XY, 563 / 256)],
    ids=["p3", "adobe"],
)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.HEIC", "a.avif"])
def test_a_wide_gamuts_apple_is_srgbs_apple(
    name: str,
    space: Space,
    xy: tuple[tuple[float, float], ...],
    gamma: float | None,
    tmp_path: Path,
) -> None:
    wide = plain(encoded(APPLE_GREEN, xy, gamma))
    wide.save(tmp_path / name, icc_profile=profile_bytes(space), quality=100)
    allowed = 4 if name.endswith("avif") else 2  # the encoder itself is off by 2
    assert np.abs(middle(tmp_path / name) - APPLE_GREEN).max() <= allowed


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_palettes_and_transparent_photos_have_their_profile_too(mode: str, tmp_path: Path) -> None:
    wide = plain(encoded(APPLE_GREEN, P3_XY))
    image = wide.quantize(2) if mode == "P" else wide.convert(mode)
    image.save(tmp_path / "a.png", icc_profile=profile_bytes(DISPLAY_P3))
    assert np.abs(middle(tmp_path / "a.png") - APPLE_GREEN).max() <= 2


def exif_of_adobe_rgb() -> Image.Exif:
    exif = Image.Exif()
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ColorSpace] = 65535
    details[ExifTags.IFD.Interop] = {1: "R03", 2: b"0100"}
    return exif


def test_adobe_rgb_that_exif_alone_names_is_converted(tmp_path: Path) -> None:
    wide = plain(encoded(APPLE_GREEN, ADOBE_XY, 563 / 256))
    wide.save(tmp_path / "a.jpg", exif=exif_of_adobe_rgb(), quality=100)
    assert np.abs(middle(tmp_path / "a.jpg") - APPLE_GREEN).max() <= 2


def save_heic(path: Path, primaries: int, curve: int) -> None:
    plain(encoded(APPLE_GREEN, P3_XY)).save(
        path,
        quality=-1,
        chroma=444,
        color_primaries=primaries,
        transfer_characteristics=curve,
    )


def save_avif(path: Path, primaries: int, curve: int) -> None:
    plain(encoded(APPLE_GREEN, P3_XY)).save(path, quality=100, subsampling="4:4:4")
    start, mark, rest = path.read_bytes().partition(b"colrnclx")
    path.write_bytes(start + mark + struct.pack(">HH", primaries, curve) + rest[4:])


def save_png(path: Path, primaries: int, curve: int) -> None:
    info = PngInfo()
    info.add(b"cICP", bytes([primaries, curve, 0, 1]))
    plain(encoded(APPLE_GREEN, P3_XY)).save(path, pnginfo=info)


CODED = pytest.mark.parametrize(
    ("name", "save"), [("a.heic", save_heic), ("a.avif", save_avif), ("a.png", save_png)]
)


@CODED
def test_p3_named_by_codes_is_converted(
    name: str, save: Callable[[Path, int, int], None], tmp_path: Path
) -> None:
    save(tmp_path / name, 12, 13)
    assert np.abs(middle(tmp_path / name) - APPLE_GREEN).max() <= 4  # 2 of them the encoders'


@CODED
@pytest.mark.parametrize(("curve", "said"), [(16, "PQ"), (18, "HLG"), (13, "BT.2020")])
def test_hdr_is_refused_by_name(
    name: str, save: Callable[[Path, int, int], None], curve: int, said: str, tmp_path: Path
) -> None:
    save(tmp_path / name, 9, curve)
    with pytest.raises(KronaError, match=rf"{name} has the colours of HDR \({said}\).*SDR"):
        decode(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("has_profile", [False, True])
def test_srgb_stays_bit_by_bit(mode: str, has_profile: bool, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(levels).convert(mode)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "a.png", **({"icc_profile": srgb} if has_profile else {}))
    decoded, notes = decode(tmp_path / "a.png")
    assert notes == ()
    assert decoded.tobytes() == image.convert("RGB").tobytes()


def test_lab_is_converted(tmp_path: Path) -> None:
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(plain(APPLE_GREEN), *spaces, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    assert np.abs(middle(tmp_path / "a.tif") - APPLE_GREEN).max() <= 2


def cmyk_profile() -> bytes:
    """A press whose cyan prints as a middle grey and whose other inks print as black."""
    lab = [(0, 128, 128)] * 16
    lab[0b0000], lab[0b1000] = (255, 128, 128), (128, 128, 128)
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1\0\0\0\0\4\3\2\0" + matrix + ramp * 4 + bytes(sum(lab, ())) + ramp * 3
    start = struct.pack(">I4xI", 144 + len(table), 2 << 24) + b"prtrCMYKLab "
    header = (start.ljust(36, b"\0") + b"acsp").ljust(128, b"\0")
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_printed_as_its_profile_says(name: str, tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    cyan.save(tmp_path / name, icc_profile=cmyk_profile(), quality=100)
    grey = 119  # L* = 128/255 * 100 in sRGB
    assert np.abs(middle(tmp_path / name) - grey).max() <= 3


def test_cmyk_without_a_profile_is_inverted_and_told_of(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    image, notes = decode(tmp_path / "a.jpg")
    assert np.abs(np.asarray(image)[8, 8].astype(int) - (0, 255, 255)).max() <= 2
    assert len(notes) == 1
    assert "CMYK without a colour profile" in notes[0]


@pytest.mark.parametrize(
    ("profile", "mode", "said"),
    [
        (b"no profile at all", "RGB", "damaged colour profile"),
        (profile_bytes(DISPLAY_P3)[:-60], "RGB", "damaged colour profile"),
        (profile_bytes(DISPLAY_P3), "CMYK", "profile for RGB over CMYK pixels"),
        (cmyk_profile(), "RGB", "profile for CMYK over RGB pixels"),
    ],
    ids=["none", "cut", "of RGB", "of CMYK"],
)
def test_a_profile_that_is_none_is_told_of_and_left_out(
    profile: bytes, mode: str, said: str, tmp_path: Path
) -> None:
    image = plain(APPLE_GREEN).convert(mode)
    image.save(tmp_path / "a.tif", icc_profile=profile)
    decoded, notes = decode(tmp_path / "a.tif")
    assert decoded.tobytes() == image.convert("RGB").tobytes()
    assert len(notes) == 1
    assert said in notes[0]


def grey_profile(gamma: float) -> bytes:
    parts = {
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256)),
    }
    at, table, data = 128 + 4 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for name, part in parts.items():
        table += name + struct.pack(">II", at + len(data), len(part))
        data += part
    start = struct.pack(">I4xI", at + len(data), 2 << 24) + b"mntrGRAYXYZ "
    return (start.ljust(36, b"\0") + b"acsp").ljust(128, b"\0") + table + data


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_follows_its_profile(mode: str, tmp_path: Path) -> None:
    shade = 128 * 257 if mode == "I;16" else (128, 255) if mode == "LA" else 128
    image = Image.new(mode, (16, 16), shade)
    image.save(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    expected = 188  # sRGB's code for half of white's light
    assert np.abs(middle(tmp_path / "a.png") - expected).max() <= 2
