"""Draw the sprite sheet once: icon packages enter, assets/sprites.png and sprites.json leave.

Users never need this.  To redraw: `npm install @iconify-json/fluent-emoji
@iconify-json/fluent-emoji-flat @iconify-json/noto`, `pip install cairosvg`, then
`python -m krona.toyland.draw_sheet --icons node_modules/@iconify-json`.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from krona.toyland import world
from krona.toyland.sprites import CELL_PX, INDEX, SHEET, SpriteKey

PROPS = (
    "palm-tree",
    "deciduous-tree",
    "evergreen-tree",
    "herb",
    "sunflower",
    "man-walking",
    "woman-walking",
    "man-standing",
    "woman-standing",
    "person-standing",
)
COLUMNS = 24


@dataclass(frozen=True, kw_only=True)
class DrawSheet:
    """Where the icon packages lie and where the sheet goes."""

    icons: Path
    """The @iconify-json folder that holds fluent-emoji, fluent-emoji-flat and noto."""
    sheet: Path = SHEET
    index: Path = INDEX


def sprite_keys() -> list[SpriteKey]:
    """Return every sprite of the sheet in its order: objects, held-out subjects, props."""
    things = [(thing.icon, "object") for thing in world.OBJECTS]
    things += [(thing.icon, "held_out") for thing in world.HELD_OUT]
    keys = [
        SpriteKey(icon=icon, style=style, role=role)
        for icon, role in things
        for style in world.STYLES
    ]
    return keys + [SpriteKey(icon=icon, style="flat", role="prop") for icon in PROPS]


def icon_svg(icon_set: dict[str, Any], icon: str) -> bytes:
    """Return one icon of an Iconify set as an SVG document."""
    body = icon_set["icons"][icon]
    width = body.get("width", icon_set.get("width", 16))
    height = body.get("height", icon_set.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{body["body"]}</svg>'
    ).encode()


def draw_icon(svg: bytes, size_px: int) -> Image.Image:
    """Rasterise an SVG and centre what it shows in a square RGBA cell that it fills."""
    import cairosvg

    png = cairosvg.svg2png(bytestring=svg, output_width=2 * size_px, output_height=2 * size_px)
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    shown = drawn.crop(drawn.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())
    scale = size_px / max(shown.size)
    shown = shown.resize((max(1, round(shown.width * scale)), max(1, round(shown.height * scale))))
    cell = Image.new("RGBA", (size_px, size_px))
    cell.paste(shown, ((size_px - shown.width) // 2, (size_px - shown.height) // 2))
    return cell


def draw_sheet(config: DrawSheet) -> None:
    """Write the sheet and its index."""
    sets = {
        style: json.loads((config.icons / name / "icons.json").read_text(encoding="utf-8"))
        for style, name in world.STYLES.items()
    }
    keys = sprite_keys()
    rows = -(-len(keys) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL_PX, rows * CELL_PX))
    entries = []
    for position, key in enumerate(keys):
        row, column = divmod(position, COLUMNS)
        cell = draw_icon(icon_svg(sets[key.style], key.icon), CELL_PX)
        sheet.paste(cell, (column * CELL_PX, row * CELL_PX))
        entries.append(
            {"icon": key.icon, "style": key.style, "role": key.role, "row": row, "column": column}
        )
    config.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(config.sheet, optimize=True)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    config.index.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    import tyro

    draw_sheet(tyro.cli(DrawSheet))
