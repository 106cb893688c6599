"""One photo's file in; an upright picture in 8-bit sRGB, and what to tell of it, out."""

import functools
import warnings
from pathlib import Path

import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from krona.errors import KronaError
from krona.subject.colour import coded_colours, to_srgb
from krona.subject.depth import to_8_bits

_FRAMES = {"GIF", "PNG", "WEBP", "AVIF", "TIFF"}  # elsewhere further images are not of the picture
_NO_PHOTOS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow knows their names alone
_INDIRECT = {"P", "PA", "RGBa"}  # palettes, and colours multiplied by their alpha


@functools.cache
def photo_suffixes() -> frozenset[str]:
    """How the names of files end that can be read, in lower case."""
    pillow_heif.register_heif_opener()
    known = Image.registered_extensions()  # fills Image.OPEN too
    readable = set(Image.OPEN) - _NO_PHOTOS
    return frozenset(suffix for suffix, name in known.items() if name in readable)


def decode(path: Path) -> tuple[Image.Image, tuple[str, ...]]:
    """Read a photo: upright, in sRGB, transparent parts white.

    Returns: an RGB image; what is worth telling, each to follow "photo x.png".
    Raises: KronaError for a file that is broken, or cannot be shown faithfully in 8-bit sRGB.
    """
    photo_suffixes()  # a HEIC file may be called .jpg
    if not path.stat().st_size:
        raise KronaError(f"photo {path} is empty (0 bytes); copy it anew or take it out")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image, notes = _decode(path)
        except KronaError as error:
            raise KronaError(f"photo {path} {error}") from error
        except Image.DecompressionBombError as error:
            raise KronaError(
                f"photo {path} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} "
                "megapixels; scale it down"
            ) from error
        except Exception as error:  # decoders raise anything over a damaged file
            is_unknown = isinstance(error, UnidentifiedImageError)
            reason = "of no known format" if is_unknown else " ".join(str(error).split())
            raise KronaError(
                f"photo {path} is broken: {reason}; replace it or take it out of the folder"
            ) from error
    doubts = (str(w.message) for w in caught if w.category is UserWarning)
    return image, (*notes, *(f"may be damaged: {doubt}" for doubt in doubts))


def _decode(path: Path) -> tuple[Image.Image, tuple[str, ...]]:
    # By its name, Pillow 13.0 maps an uncompressed TIFF into memory, and scrambles a turned one.
    with path.open("rb") as opened, Image.open(opened) as file:
        num_frames = getattr(file, "n_frames", 1) if file.format in _FRAMES else 1
        frames = (f"has {num_frames} frames: only the first is learned",) if num_frames > 1 else ()
        file.load()
        turned = _turn(file)
        image = to_8_bits(file)
        if image.mode in _INDIRECT:
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        rgb, notes = to_srgb(image, coded_colours(path, file))
        if image.has_transparency_data:
            rgb.putalpha(image.convert("RGBA").getchannel("A"))
            rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")
        return rgb, (*frames, *turned, *notes)


def _turn(file: Image.Image) -> tuple[str, ...]:
    """Set a photo upright, in place; say so if its EXIF data cannot tell."""
    try:
        ImageOps.exif_transpose(file, in_place=True)
    except Exception as error:
        return (f"has damaged EXIF data ({error}): taken as it lies",)
    return ()
