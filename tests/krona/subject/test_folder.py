"""Of a folder the photos are taken, with their captions; each other thing gets its word, once."""

import codecs
import warnings
from pathlib import Path

import pytest
from PIL import Image

from krona.errors import KronaError
from krona.subject.folder import check_is_folder, image_paths, read_caption
from krona.subject.subject import load_subject


def fill(folder: Path, number: int = 3) -> None:
    for i in range(number):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")


def told(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image_paths(folder)
    return [str(warning.message) for warning in caught]


def test_hidden_files_and_companions_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in (".DS_Store", "._0.png", "Thumbs.db", "subject.toml", "README.md", "1.txt"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in image_paths(tmp_path)] == ["0.png", "1.png", "2.png"]
    assert told(tmp_path) == []


def test_names_may_be_in_upper_case(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    for name in ("A.JPG", "B.HEIC", "C.Avif"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "A.TXT").write_text("a {}\n")
    paths = image_paths(tmp_path)
    assert [path.name for path in paths] == ["0.png", "A.JPG", "B.HEIC", "C.Avif"]
    assert [read_caption(path) for path in paths] == [None, "a {}", None, None]
    assert told(tmp_path) == []


@pytest.mark.parametrize("name", ["notes.txt", "clip.mov", "clip.mpg", "raw.dng"])
def test_other_files_are_left_out_with_a_warning(name: str, tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / name).write_text("x")
    assert told(tmp_path) == [f"{tmp_path / name} is no image that can be read; it is left out"]


def test_photos_in_a_subfolder_are_told_of(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("more", "empty", ".hidden"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "more", 2)
    fill(tmp_path / ".hidden", 2)
    assert told(tmp_path) == [
        f"photos in folders of {tmp_path} are left out (more holds 2): move them up"
    ]
    for i in range(3):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(KronaError, match="holds no image; its folder more holds 2: give that one"):
        image_paths(tmp_path)


@pytest.mark.parametrize(
    ("number", "said"), [(1, "holds 1 photo;"), (2, "holds 2 photos;"), (101, "holds 101 photos;")]
)
def test_too_few_and_too_many_photos_are_told_of(number: int, said: str, tmp_path: Path) -> None:
    fill(tmp_path, number)
    (warning,) = told(tmp_path)
    assert f"{said} 3-6 different ones teach a subject best" in warning


@pytest.mark.parametrize("number", [3, 100])
def test_three_to_a_hundred_photos_pass_in_silence(number: int, tmp_path: Path) -> None:
    fill(tmp_path, number)
    assert told(tmp_path) == []


def test_a_file_in_a_folders_place_names_its_folder(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    for refused in (check_is_folder, image_paths):
        with pytest.raises(KronaError, match=rf"0\.png is a file; give the folder.*{tmp_path}"):
            refused(tmp_path / "0.png")


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_caption_is_one_line_without_its_byte_order_mark(mark: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(mark + "a {} on a\r\n café's sofa\n".encode())
    assert read_caption(tmp_path / "b.jpg") == "a {} on a café's sofa"


@pytest.mark.parametrize("text", [b"", b" \n", codecs.BOM_UTF8])
def test_an_empty_caption_is_refused_with_what_to_do(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(text)
    with pytest.raises(KronaError, match=r"b\.txt is empty; write what b\.jpg shows.*or delete"):
        read_caption(tmp_path / "b.jpg")


def test_a_caption_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a {}", encoding="utf-16")
    with pytest.raises(KronaError, match=r"caption .*a\.txt is broken.*UTF-8"):
        read_caption(tmp_path / "a.png")


def test_subject_toml_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "subject.toml").write_text('class = "dog"', encoding="utf-8-sig")
    assert load_subject("rex", photos=tmp_path).class_noun == "dog"
