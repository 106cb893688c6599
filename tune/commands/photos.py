"""`krona photos`: what would be learned of a folder of photos, as a table and on a sheet."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from krona.errors import KronaError

if TYPE_CHECKING:
    from PIL.Image import Image

    from krona.subject.pictures import Listed, Picture
    from krona.subject.subject import Subject

_CELL_PX, _LABEL_PX = 192, 300
_SHEETS = {".png", ".jpg", ".jpeg"}


def photos(
    folder: tyro.conf.Positional[Path],
    *,
    output: Path = Path("photos.png"),
    resolution: int = 512,
    class_noun: str | None = None,
    identifier: str | None = None,
) -> None:
    """Show what would be learned of a folder of photos: crops, captions, and what to look at.

    Args:
        folder: Folder of the photos.
        output: Sheet that is written: each photo as the model sees it, and whole with its crop.
        resolution: Side of the training images in pixels: the checkpoint's.
        class_noun: What the subject is, as in: dog. Unless given: what subject.toml says.
        identifier: Rare word that names the subject. Unless given: what subject.toml says, or sks.
    """
    from evals.sheet import contact_sheet
    from krona.subject.pictures import read_pictures

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        subject, listed = _load(folder, class_noun, identifier)
    doubts = [str(w.message) for w in caught]
    _check(folder, output, resolution)
    lines, rows = [], []
    for picture in read_pictures(listed, resolution=resolution):
        caption = subject.caption(picture.listed.said)
        lines.append(_line(picture, caption))
        rows.append(_row(picture, caption))
        doubts += [f"photo {picture.listed.path} {note}" for note in picture.notes]
    output.parent.mkdir(parents=True, exist_ok=True)
    headers = ("as the model sees it", "the whole photo")
    contact_sheet(rows, columns=headers, cell_px=_CELL_PX, label_px=_LABEL_PX).save(output)
    _print(lines, doubts, f"{len(rows)} photos at {resolution} px, all on {output}")


def _check(folder: Path, output: Path, resolution: int) -> None:
    from krona.subject.pictures import MIN_SIDE_PX
    from tune.trials.checks import check_folder

    if resolution < MIN_SIDE_PX:
        raise KronaError(f"resolution={resolution} must be {MIN_SIDE_PX} or more")
    if output.suffix.lower() not in _SHEETS:
        raise KronaError(f"--output {output} must end in .png or .jpg")
    if output.absolute().parent.resolve() == folder.resolve():
        raise KronaError(
            f"--output {output} would lie among the photos and be learned; name another folder"
        )
    check_folder(output.parent, "--output")


def _load(
    folder: Path, class_noun: str | None, identifier: str | None
) -> tuple["Subject", list["Listed"]]:
    """The subject and its photos, with what a sweep would warn of, and refuse, before it begins."""
    from krona.subject.description import read_description
    from krona.subject.folder import check_is_folder
    from krona.subject.pictures import list_photos
    from krona.subject.subject import load_subject

    check_is_folder(folder)
    if not class_noun and "class" not in read_description(folder):
        class_noun = "<class>"
        warnings.warn(
            "nothing says what the subject is; a sweep needs --class-noun (as in dog), or "
            f'class = "dog" in {folder / "subject.toml"}',
            stacklevel=2,
        )
    subject = load_subject(folder.name, photos=folder, class_noun=class_noun, identifier=identifier)
    listed = list_photos(folder)
    for photo in listed:
        subject.caption(photo.said)
    return subject, listed


def _line(picture: "Picture", caption: str) -> tuple[str, ...]:
    whole = picture.whole
    crop = (v / n for v, n in zip(picture.box, whole.size * 2, strict=True))
    return (
        picture.listed.path.name,
        f"{whole.width}x{whole.height}",
        f"[{', '.join(f'{v:.2f}' for v in crop)}]",
        caption,
    )


def _row(picture: "Picture", caption: str) -> tuple[str, list["Image"]]:
    """The photo's row of the sheet: its name, caption and notes; the square, and the whole."""
    from PIL import Image, ImageDraw, ImageOps

    size = _CELL_PX, _CELL_PX
    whole = ImageOps.contain(picture.whole, size)
    scale = whole.width / picture.whole.width
    edges = [round(v * scale) for v in picture.box]
    outline = edges[0], edges[1], max(edges[2] - 1, edges[0]), max(edges[3] - 1, edges[1])
    ImageDraw.Draw(whole).rectangle(outline, outline="red", width=2)
    label = "; ".join((f"{picture.listed.path.name}: {caption}", *picture.notes))
    learned = picture.learned.resize(size, Image.Resampling.LANCZOS)
    return label, [learned, ImageOps.pad(whole, size, color="white")]


def _print(lines: list[tuple[str, ...]], doubts: list[str], last: str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(lines))
    for doubt in doubts:
        console.print(f"warning: {doubt}", markup=False, soft_wrap=True)
    console.print(last, markup=False, soft_wrap=True)


def _table(lines: list[tuple[str, ...]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for name in ("photo", "size", "crop"):
        table.add_column(name, no_wrap=True)
    table.add_column("caption")
    for line in lines:
        table.add_row(*map(Text, line))
    return table
