"""Contact sheets: rows of labelled pictures in, one picture out."""

from collections.abc import Sequence
from textwrap import shorten

from PIL import Image, ImageDraw, ImageFont

MARGIN_PX = 4
LABEL_PX = 150
HEADER_PX = 30


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    columns: Sequence[str] = (),
    cell_px: int = 128,
) -> Image.Image:
    """Lay out pictures in a table: a label before each row, a header over each column.

    Args:
        rows: (label, pictures) of each row; rows may differ in length.
        columns: headers, shortened to fit.
        cell_px: side of a picture on the sheet.
    """
    num_columns = max(len(pictures) for _, pictures in rows)
    step = cell_px + MARGIN_PX
    header = HEADER_PX if columns else 0
    sheet = Image.new("RGB", (LABEL_PX + num_columns * step, header + len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for x, text in enumerate(columns):
        draw.text(
            (LABEL_PX + x * step, 2), _wrap(text, cell_px), fill="black", font=font, spacing=1
        )
    for y, (label, pictures) in enumerate(rows):
        top = header + y * step
        at = 4, top + cell_px // 2 - 16
        draw.text(at, _wrap(label, LABEL_PX), fill="black", font=font, spacing=1)
        for x, picture in enumerate(pictures):
            cell = picture.convert("RGB").resize((cell_px, cell_px), Image.Resampling.LANCZOS)
            sheet.paste(cell, (LABEL_PX + x * step, top))
    return sheet


def _wrap(text: str, width_px: int) -> str:
    """Break a text into at most two lines of about `width_px`."""
    per_line = max(width_px // 7, 8)
    short = shorten(text, 2 * per_line, placeholder="…")
    cut = short.rfind(" ", 0, per_line + 1)
    return short if len(short) <= per_line or cut < 0 else f"{short[:cut]}\n{short[cut + 1 :]}"
