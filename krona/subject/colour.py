"""A picture of 8 bits in any colours in; sRGB out, or why that cannot be."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

from krona.errors import KronaError
from krona.subject.profiles import ADOBE_RGB, DISPLAY_P3, profile

_AS_GOOD_AS_SRGB = 2  # levels of 255 that a profile may differ by and leave the pixels as they are
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # what a profile's space takes
_GREY = {"1", "L", "LA"}
_HDR = {16: "PQ", 18: "HLG"}  # transfer functions of ITU-T H.273; below, its primaries
_BT2020, _P3 = 9, {11, 12}
_HEAD_BYTES = 1 << 16
_EXIF_ADOBE_RGB = 2


def coded_colours(path: Path, file: Image.Image) -> tuple[int, int]:
    """The primaries and the transfer function that a file names by H.273's codes; 2 is unknown."""
    if file.format == "HEIF":
        codes = file.info.get("nclx_profile", {})
        return codes.get("color_primaries", 2), codes.get("transfer_characteristics", 2)
    if file.format not in {"AVIF", "PNG"}:
        return 2, 2
    with path.open("rb") as opened:  # Pillow 13 keeps neither AVIF's nor PNG's
        head = opened.read(_HEAD_BYTES).partition(b"IDAT")[0]
    wide, narrow = head.partition(b"colrnclx")[2][:4], head.partition(b"cICP")[2][:2]
    codes = struct.unpack(">HH", wide) if len(wide) == 4 else tuple(narrow)
    return (codes[0], codes[1]) if len(codes) == 2 else (2, 2)


def to_srgb(
    image: Image.Image, codes: tuple[int, int] = (2, 2)
) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert 8-bit pixels from the colours that the file tells; those of sRGB stay bit by bit.

    Args:
        codes: what coded_colours() found; an embedded profile overrules it.
    Returns: RGB, whatever is transparent as if it were not; what to tell of it.
    Raises: KronaError for high dynamic range, which has no faithful place in sRGB.
    """
    if image.mode == "LAB":
        return _transform(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), ()
    try:
        source = _source(image, *codes)
        if source is not None:
            return _converted(image, source)
    except (OSError, ImageCms.PyCMSError) as error:
        return image.convert("RGB"), (f"has a damaged colour profile ({error}): read as sRGB",)
    guess = ("is CMYK without a colour profile: its colours are a guess; save it as sRGB",)
    return image.convert("RGB"), guess if image.mode == "CMYK" else ()


def _source(image: Image.Image, primaries: int, curve: int) -> ImageCms.ImageCmsProfile | None:
    """The colours that a file embeds or names; None for sRGB, or where it tells nothing."""
    embedded = image.info.get("icc_profile")
    if embedded:
        return ImageCms.ImageCmsProfile(BytesIO(embedded))
    if curve in _HDR or primaries == _BT2020:
        raise KronaError(
            f"has the colours of HDR ({_HDR.get(curve, 'BT.2020')}), which 8-bit sRGB cannot show "
            "faithfully; export it as an ordinary (SDR) JPEG"
        )
    if primaries in _P3:
        return profile(DISPLAY_P3)
    is_adobe = image.mode == "RGB" and _says_adobe_rgb(image.getexif())
    return profile(ADOBE_RGB) if is_adobe else None


def _says_adobe_rgb(exif: Image.Exif) -> bool:
    """Whether EXIF names Adobe RGB: outright, or as DCF's optional colour space R03."""
    try:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except Exception:  # Pillow raises anything over damaged EXIF data
        return False
    return details.get(ExifTags.Base.ColorSpace) == _EXIF_ADOBE_RGB or index == "R03"


def _converted(
    image: Image.Image, source: ImageCms.ImageCmsProfile
) -> tuple[Image.Image, tuple[str, ...]]:
    space = source.profile.xcolor_space.strip()
    mode = _MODES.get(space)
    fits = {"L": image.mode in _GREY, "CMYK": image.mode == "CMYK", "RGB": image.mode != "CMYK"}
    if mode is None or not fits[mode]:
        note = f"has a colour profile for {space} over {image.mode} pixels: read as without it"
        return image.convert("RGB"), (note,)
    if mode != "CMYK" and _is_srgb(source, mode):
        return image.convert("RGB"), ()
    return _transform(image.convert(mode), source), ()


def _is_srgb(source: ImageCms.ImageCmsProfile, mode: str) -> bool:
    """Whether a profile, whatever its name, leaves a grid of colours where they are."""
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    probe = Image.fromarray(grid if mode == "RGB" else grid[..., 0])
    seen = np.asarray(_transform(probe, source), dtype=np.int16)
    return int(np.abs(seen - np.asarray(probe.convert("RGB"))).max()) <= _AS_GOOD_AS_SRGB


def _transform(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    """Relative to white, black to black: what viewers of photos do by default."""
    to_rgb = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        image.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    done = ImageCms.applyTransform(image, to_rgb)
    assert done is not None  # it is None only for what is done in place
    return done
