"""Photos come out upright, square and RGB; each bad file gets its own answer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from krona.errors import KronaError
from krona.subject.photos import load_photos

EXIF_ORIENTATION = 0x0112


def test_the_middle_of_an_image_is_kept_and_scaled(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = (255, 0, 51)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    photos = load_photos(tmp_path, resolution=8)
    expected = torch.tensor([1.0, -1.0, -0.6]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(photos.pixels, expected)
    assert photos.names == ("a.png",)


def test_a_rotated_photo_is_set_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 3
    image.save(tmp_path / "a.png", exif=exif)
    pixels = load_photos(tmp_path, resolution=16).pixels[0]
    assert pixels[:, 0].max() == -1
    assert pixels[:, -1].min() == 1


def test_transparent_parts_become_white_and_grey_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "b.jpg")
    pixels = load_photos(tmp_path, resolution=8).pixels
    assert pixels.shape == (2, 3, 8, 8)
    assert pixels[0].min() == 1
    assert pixels[1].max() == -1


def test_hashes_follow_the_pixels_not_the_names(tmp_path: Path) -> None:
    for name, color in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (8, 8), color).save(tmp_path / name)
    a, b, c = load_photos(tmp_path, resolution=8).hashes
    assert a == b != c


def test_a_smwarnedphoto_is_enlarged_with_a_warning(tmp_path: Path) -> None:
    Image.new("RGB", (10, 12)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="10x12 px and is enlarged to 16 px"):
        assert load_photos(tmp_path, resolution=16).pixels.shape[-1] == 16


def test_a_four_pixel_image_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(KronaError, match=r"a\.png is 4x4 px.*under 8 px"):
        load_photos(tmp_path, resolution=64)


def test_a_picture_that_is_there_twice_is_told_of(tmp_path: Path) -> None:
    for name, color in (("a.png", "red"), ("b.png", "blue"), ("c.bmp", "red")):
        Image.new("RGB", (8, 8), color).save(tmp_path / name)
    with pytest.warns(
        UserWarning, match=r"c\.bmp is the same picture as a\.png.*take one out"
    ) as warned:
        assert len(load_photos(tmp_path, resolution=8).names) == 3
    assert len(warned) == 1


def test_empty_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KronaError, match="holds no image; put 3-6 photos there"):
        load_photos(tmp_path, resolution=8)
    with pytest.raises(KronaError, match="does not exist"):
        load_photos(tmp_path / "nowhere", resolution=8)
