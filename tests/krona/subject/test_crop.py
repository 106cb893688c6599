"""A crop becomes the square that holds it; one that is none is refused with what would be right."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from krona.errors import KronaError
from krona.subject.crop import WHOLE, Box, square
from krona.subject.photos import load_photos


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        (WHOLE, (0, 50, 100, 150)),  # the middle of a portrait
        ((0, 0, 1, 0.5), (0, 0, 100, 100)),  # already square
        ((0.2, 0.0, 0.8, 0.2), (20, 0, 80, 60)),  # moved down from above the upper edge
        ((0.8, 0.4, 1.0, 0.5), (80, 80, 100, 100)),
        ((0.9, 0.9, 1.0, 1.0), (80, 180, 100, 200)),  # moved in from the corner
        ((0.4, 0.1, 0.6, 0.9), (0, 50, 100, 150)),  # too tall for any square
    ],
)
def test_the_square_holds_the_crop_and_lies_inside(crop: Box, expected: Box) -> None:
    assert square(crop, 100, 200) == pytest.approx(expected)


@pytest.mark.parametrize("size", [(97, 41), (41, 97), (50, 50), (64, 63)])
def test_without_a_crop_the_middle_is_pillows_own(size: tuple[int, int], tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    expected = ImageOps.fit(Image.fromarray(levels), (32, 32), Image.Resampling.LANCZOS)
    learned = (load_photos(tmp_path, resolution=32).pixels[0] + 1) * 127.5
    assert np.array_equal(learned.permute(1, 2, 0).round().numpy(), np.asarray(expected))


def say(folder: Path, text: str) -> None:
    image = Image.new("RGB", (16, 32), "blue")
    image.paste("red", (0, 0, 16, 16))
    image.save(folder / "IMG_1.png")
    (folder / "subject.toml").write_text(f'class = "dog"\n[photos."IMG_1.png"]\n{text}')


def test_a_photo_is_learned_as_its_crop_says(tmp_path: Path) -> None:
    say(tmp_path, "crop = [0, 0, 1, 0.5]")
    pixels = load_photos(tmp_path, resolution=16).pixels[0]
    assert pixels[0].min() == 1  # red alone
    assert pixels[2].max() == -1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "crop = [0, 0, 16, 16]",
            r"crop = \[0, 0, 16, 16\] of photo 'IMG_1.png' must be.*fraction",
        ),
        ("crop = [0.5, 0, 0.5, 1]", "left < right"),
        ("crop = [0, 1, 1, 0]", "top < bottom"),
        ("crop = [0, 0, 1]", r"must be \[left, top, right, bottom\]"),
        ("crop = 'top'", r"must be \[left, top, right, bottom\]"),
        ("crop = [0, 0, true, true]", r"must be \[left, top, right, bottom\]"),
        ("crop = [nan, 0, 1, 1]", r"must be \[left, top, right, bottom\]"),
        ("corp = [0, 0, 1, 1]", "photo 'IMG_1.png' has an unknown key 'corp'; known: crop"),
        ("crop = [0, 0, 0.2, 0.1]", "is cropped to 3x3 px: nothing can be learned"),
        ("[photos.'IMG_2.png']\ncrop = [0, 0, 1, 1]", "'IMG_2.png'.*did you mean 'IMG_1.png'"),
    ],
)
def test_a_crop_that_is_none_is_refused(text: str, said: str, tmp_path: Path) -> None:
    say(tmp_path, text)
    with pytest.raises(KronaError, match=said):
        load_photos(tmp_path, resolution=16)


def test_photos_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    say(tmp_path, "")
    (tmp_path / "subject.toml").write_text("photos = ['IMG_1.png']")
    with pytest.raises(KronaError, match=r"photos must be tables such as \[photos"):
        load_photos(tmp_path, resolution=16)
