"""A contact sheet shows every picture in its place."""

from PIL import Image

from evals.sheet import HEADER_PX, LABEL_PX, MARGIN_PX, contact_sheet


def test_pictures_stand_in_their_row_and_column() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    sheet = contact_sheet([("one", [red, blue]), ("two", [blue])], columns=["a", "b"], cell_px=16)
    step = 16 + MARGIN_PX
    assert sheet.size == (LABEL_PX + 2 * step, HEADER_PX + 2 * step)
    first, second = LABEL_PX + 8, LABEL_PX + step + 8
    assert sheet.getpixel((first, HEADER_PX + 8)) == (255, 0, 0)
    assert sheet.getpixel((second, HEADER_PX + 8)) == (0, 0, 255)
    assert sheet.getpixel((first, HEADER_PX + step + 8)) == (0, 0, 255)
    assert sheet.getpixel((second, HEADER_PX + step + 8)) == (255, 255, 255)
