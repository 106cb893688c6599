"""`krona photos` shows what would be learned, and refuses what a sweep would refuse."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from krona.errors import KronaError
from tune.commands.photos import photos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dog in three photos, red above blue; the crop of the first leaves red alone."""
    folder = tmp_path / "rex"
    folder.mkdir()
    for i, width in enumerate((32, 64, 96)):
        image = Image.new("RGB", (width, 128), "blue")
        image.paste("red", (0, 0, width, 64))
        image.save(folder / f"{i}.png")
    (folder / "subject.toml").write_text('class = "dog"\n[photos."0.png"]\ncrop = [0, 0, 1, 0.25]')
    (folder / "1.txt").write_text("a {} on a sofa")
    return folder


def test_the_table_names_size_crop_and_caption_of_each(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(folder, output=tmp_path / "sheets" / "rex.png", resolution=32)
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "0.png 32x128 [0.00, 0.00, 1.00, 0.25] a sks dog" in printed
    assert "1.png 64x128 [0.00, 0.25, 1.00, 0.75] a sks dog on a sofa" in printed
    assert not [line for line in printed if line.startswith("warning")]
    assert printed[-1] == f"3 photos at 32 px, all on {tmp_path / 'sheets' / 'rex.png'}"


def test_the_sheet_shows_each_as_it_is_learned(folder: Path, tmp_path: Path) -> None:
    photos(folder, output=tmp_path / "rex.png", resolution=32)
    with Image.open(tmp_path / "rex.png") as sheet:
        cells = [sheet.crop((300, top, 492, top + 192)) for top in (30, 226, 422)]
    assert cells[0].getcolors() == [(192 * 192, (255, 0, 0))]
    for cell in cells[1:]:
        assert (cell.getpixel((96, 10)), cell.getpixel((96, 180))) == ((255, 0, 0), (0, 0, 255))


def test_what_to_look_at_is_said_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "subject.toml").unlink()
    (folder / "clip.mov").write_text("x")
    photos(folder, output=tmp_path / "rex.png", resolution=48)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(said) == 3
    assert "nothing says what the subject is; a sweep needs --class-noun" in said[0]
    assert "clip.mov is no image that can be read" in said[1]
    assert "0.png is 32x128 px and is enlarged to 48 px" in said[2]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("1.txt", "", "caption .*1.txt is empty"),
        ("1.txt", "on a sofa", "caption 'on a sofa' .*must hold"),
        ("2.png", "no image", "2.png is broken"),
        ("subject.toml", "clas = 'dog'", "unknown key 'clas': did you mean 'class'"),
    ],
)
def test_what_a_sweep_refuses_is_refused(
    name: str, text: str, said: str, folder: Path, tmp_path: Path
) -> None:
    (folder / name).write_text(text)
    with pytest.raises(KronaError, match=said):
        photos(folder, output=tmp_path / "rex.png", resolution=32)
    assert not (tmp_path / "rex.png").exists()


def test_a_sheet_does_not_go_among_the_photos(folder: Path, tmp_path: Path) -> None:
    for output, said in (
        (folder / "sheet.png", "would lie among the photos"),
        (tmp_path / "sheet.txt", "must end in .png or .jpg"),
        (folder / "0.png" / "sheet.png", "is a file; name a folder"),
    ):
        with pytest.raises(KronaError, match=said):
            photos(folder, output=output)


def test_neither_torch_nor_ray_is_imported(folder: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
import tune.cli
tune.cli.photos(Path({str(folder)!r}), output=Path("rex.png"))
print([name for name in ("torch", "ray", "mlflow", "optuna") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
