"""Contact sheets: rows of labelled pictures in, one picture out."""

from collections.abc import Sequence
from textwrap import fill

from PIL import Image, ImageChops, ImageDraw, ImageFont

MARGIN_PX = 4
LABEL_PX = 150
HEADER_PX = 30
CHARACTER_PX = 7
LABEL_LINE_PX = 16


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    columns: Sequence[str] = (),
    cell_px: int = 128,
    label_px: int = LABEL_PX,
) -> Image.Image:
    """Lay out pictures in a table: a label before each row, a header over each column.

    Args:
        rows: (label, pictures) of each row; rows may differ in length.
        columns: headers, shortened to fit.
        cell_px: side of a picture on the sheet.  label_px: width of the labels.
    """
    num_columns = max(len(pictures) for _, pictures in rows)
    step = cell_px + MARGIN_PX
    header = HEADER_PX if columns else 0
    sheet = Image.new("RGB", (label_px + num_columns * step, header + len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for x, text in enumerate(columns):
        draw.text(
            (label_px + x * step, 2), _wrap(text, cell_px, 2), fill="black", font=font, spacing=1
        )
    for y, (label, pictures) in enumerate(rows):
        top = header + y * step
        text = _wrap(label, label_px, cell_px // LABEL_LINE_PX)
        draw.text((4, top + cell_px // 2), text, fill="black", font=font, spacing=1, anchor="lm")
        for x, picture in enumerate(pictures):
            cell = picture.convert("RGB").resize((cell_px, cell_px), Image.Resampling.LANCZOS)
            sheet.paste(cell, (label_px + x * step, top))
    return sheet


def sheet_row(
    sheet: Image.Image, row: int, num_pictures: int, *, has_header: bool = True, cell_px: int = 128
) -> list[Image.Image]:
    """Cut the first pictures of a row out of what contact_sheet() laid out, as far as it has them.

    An empty place, all white, ends the row.
    """
    step = cell_px + MARGIN_PX
    top = (HEADER_PX if has_header else 0) + row * step
    pictures = []
    for x in range(min(num_pictures, (sheet.width - LABEL_PX) // step)):
        left = LABEL_PX + x * step
        cell = sheet.crop((left, top, left + cell_px, top + cell_px)).convert("RGB")
        if top + cell_px > sheet.height or not ImageChops.invert(cell).getbbox():
            break
        pictures.append(cell)
    return pictures


def _wrap(text: str, width_px: int, num_lines: int) -> str:
    """Break a text into lines of about `width_px`, the last one shortened if there are more."""
    return fill(text, width_px // CHARACTER_PX, max_lines=num_lines, placeholder="…")
