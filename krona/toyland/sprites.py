"""The committed sprite sheet, cut up: an icon and a style enter, an RGBA picture leaves."""

import colorsys
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from krona.toyland.accessories import dress
from krona.toyland.world import COLORS, NOTHING

SHEET = Path(__file__).parent / "assets" / "sprites.png"
INDEX = Path(__file__).parent / "assets" / "sprites.json"
CELL_PX = 96


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
def sprite(
    icon: str, style: str, color: str | None = None, accessory: str = NOTHING
) -> Image.Image:
    """Return one sprite, tinted when a colour is named, dressed when an accessory is.

    Raises: KeyError if the sheet has no such icon in that style.
    """
    found = [
        image for key, image in load_sprites().items() if (key.icon, key.style) == (icon, style)
    ]
    if not found:
        known = sorted({key.icon for key in load_sprites()})
        raise KeyError(f"no sprite {icon!r} in style {style!r}; the sheet holds {known}")
    return dress(tint(found[0], color) if color else found[0], accessory)


def tint(image: Image.Image, color: str) -> Image.Image:
    """Recolour an RGBA picture: its light and shade stay, its hue becomes the colour's.

    The sprite's own range of lightness is stretched first, so that pale and dark ones keep
    their inner detail.
    """
    rgba = np.asarray(image).astype(np.float32) / 255
    lightness = rgba[..., :3] @ np.array([0.3, 0.59, 0.11], np.float32)
    low, high = np.percentile(lightness[rgba[..., 3] > 0.5], (3, 97))
    lightness = np.clip((lightness - low) / max(high - low, 0.25), 0, 1)
    base = np.array(colorsys.hsv_to_rgb(*COLORS[color]), np.float32)
    # From a third of the colour to the colour, the lightest quarter on to near white.
    shade = np.clip(0.3 + 0.95 * lightness, 0, 1)[..., None]
    gleam = np.clip((lightness - 0.75) / 0.25, 0, 1)[..., None] * 0.65
    tinted = base * shade + (1 - base * shade) * gleam
    out = np.concatenate([tinted, rgba[..., 3:]], -1)
    return Image.fromarray((np.clip(out, 0, 1) * 255).astype(np.uint8))
