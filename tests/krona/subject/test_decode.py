"""A file comes out upright and whole with what is worth telling, or is refused by name."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from krona.errors import KronaError
from krona.subject.decode import decode, photo_suffixes

ORIENTATION = 0x0112
TURNED_RIGHT = 6  # the first row is the right side

photo_suffixes()  # so that HEIC can be written here too


def gradient(mode: str = "RGB") -> Image.Image:
    """32x16, darker to the left and to the top."""
    y, x = np.mgrid[:16, :32]
    values = np.uint8(4 * x + 6 * y)
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16) * 257)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.heic", "a.avif", "a.mpo"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_turned_photo_is_set_upright(name: str, mode: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_RIGHT
    gradient(mode).save(tmp_path / name, exif=exif.tobytes(), quality=95)
    image, notes = decode(tmp_path / name)
    expected = gradient("RGB").transpose(Image.Transpose.ROTATE_270)
    assert (image.size, notes) == ((16, 32), ())
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).max() <= 8


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_turned_tiff_keeps_every_pixel(
    mode: str, compression: str | None, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_RIGHT
    gradient(mode).save(tmp_path / "a.tif", exif=exif, compression=compression)
    expected = gradient("RGB").transpose(Image.Transpose.ROTATE_270)
    assert decode(tmp_path / "a.tif")[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.avif"])
def test_the_first_of_several_frames_is_learned_and_said_so(name: str, tmp_path: Path) -> None:
    first, *others = (Image.new("RGB", (16, 16), color) for color in ("red", "blue", "lime"))
    first.save(tmp_path / name, save_all=True, append_images=others)
    image, notes = decode(tmp_path / name)
    assert notes == ("has 3 frames: only the first is learned",)
    red, green, blue = np.asarray(image)[8, 8].tolist()
    assert red > 250
    assert max(green, blue) < 5


def test_a_phones_second_picture_is_not_a_frame(tmp_path: Path) -> None:
    gain_map = Image.new("L", (8, 8), 128)
    gradient().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[gain_map], quality=95)
    image, notes = decode(tmp_path / "a.jpg")
    assert (image.size, notes) == ((32, 16), ())


def test_a_heic_named_jpg_is_read(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.jpg", "HEIF", quality=95)
    image, notes = decode(tmp_path / "a.jpg")
    assert (image.size, notes) == ((32, 16), ())


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
def test_what_is_transparent_becomes_white(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 16, 8))
    (image.quantize() if mode == "P" else image.convert(mode)).save(tmp_path / "a.png")
    pixels = np.asarray(decode(tmp_path / "a.png")[0])
    assert (pixels[:8].min(), pixels[8:].max()) == (255, 0)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF"])
def test_a_file_that_is_cut_off_is_refused(form: str, tmp_path: Path) -> None:
    whole = BytesIO()
    Image.effect_noise((128, 128), 80).convert("RGB").save(whole, form)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(
        KronaError, match=r"photo .*cut\.jpg is broken: .*; replace it or take it out"
    ):
        decode(path)


def test_empty_and_strange_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(KronaError, match=r"a\.jpg is empty \(0 bytes\)"):
        decode(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"no image at all")
    with pytest.raises(KronaError, match=r"a\.jpg is broken: of no known format"):
        decode(tmp_path / "a.jpg")


def test_a_photo_of_400_megapixels_is_refused(tmp_path: Path) -> None:
    small = BytesIO()
    gradient("L").save(small, "PNG")
    start, size, rest = small.getvalue()[:12], struct.pack(">II", 20_000, 20_000), small.getvalue()
    header = b"IHDR" + size + rest[24:29]
    checksum = struct.pack(">I", zlib.crc32(header))
    (tmp_path / "a.png").write_bytes(start + header + checksum + rest[33:])
    with pytest.raises(KronaError, match=r"a\.png has more than 178 megapixels; scale it down"):
        decode(tmp_path / "a.png")


def test_damaged_exif_data_does_not_cost_the_photo(tmp_path: Path) -> None:
    gradient().save(
        tmp_path / "a.jpg", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12", quality=95
    )
    image, _ = decode(tmp_path / "a.jpg")
    assert image.size == (32, 16)
