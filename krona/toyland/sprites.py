"""The committed sprite sheet, cut up: an icon and a style enter, an RGBA picture leaves."""

import colorsys
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from krona.toyland.world import COLORS

SHEET = Path(__file__).parent / "assets" / "sprites.png"
INDEX = Path(__file__).parent / "assets" / "sprites.json"
CELL_PX = 112


@dataclass(frozen=True, kw_only=True)
class SpriteKey:
    """Which sprite: the icon's name, the style word, and its role (object, held_out or prop)."""

    icon: str
    style: str
    role: str


@cache
def load_sprites() -> dict[SpriteKey, Image.Image]:
    """Cut the sheet into (CELL_PX, CELL_PX) RGBA pictures, each filling its cell."""
    sheet = Image.open(SHEET).convert("RGBA")
    cells = {}
    for entry in json.loads(INDEX.read_text(encoding="utf-8")):
        left, top = entry["column"] * CELL_PX, entry["row"] * CELL_PX
        key = SpriteKey(icon=entry["icon"], style=entry["style"], role=entry["role"])
        cells[key] = sheet.crop((left, top, left + CELL_PX, top + CELL_PX))
    return cells


@cache
def sprite(icon: str, style: str, color: str | None = None) -> Image.Image:
    """Return one sprite, tinted when a colour is named.

    Raises: KeyError if the sheet has no such icon in that style.
    """
    found = [
        image for key, image in load_sprites().items() if (key.icon, key.style) == (icon, style)
    ]
    if not found:
        known = sorted({key.icon for key in load_sprites()})
        raise KeyError(f"no sprite {icon!r} in style {style!r}; the sheet holds {known}")
    return tint(found[0], color) if color else found[0]


def tint(image: Image.Image, color: str) -> Image.Image:
    """Recolour an RGBA picture: its light and shade stay, its hue becomes the colour's."""
    rgba = np.asarray(image).astype(np.float32) / 255
    lightness = rgba[..., :3] @ np.array([0.3, 0.59, 0.11], np.float32)
    base = np.array(colorsys.hsv_to_rgb(*COLORS[color]), np.float32)
    # Lightness runs from half of the colour to the colour, its top fifth on to near white.
    shade = np.clip(0.5 + 0.7 * lightness, 0, 1)[..., None]
    gleam = np.clip((lightness - 0.82) / 0.18, 0, 1)[..., None] * 0.7
    tinted = base * shade + (1 - base * shade) * gleam
    out = np.concatenate([tinted, rgba[..., 3:]], -1)
    return Image.fromarray((np.clip(out, 0, 1) * 255).astype(np.uint8))
