"""A canvas whose unit is 1/64 of the picture: shapes in units enter, an RGB picture leaves."""

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from krona.toyland.sprites import sprite

UNITS = 64
Rgb = tuple[float, float, float]


def jitter(rng: random.Random, color: Rgb, spread: float = 12) -> Rgb:
    """Shift each of red, green and blue (0..255) by up to `spread`."""
    red, green, blue = (value + rng.uniform(-spread, spread) for value in color)
    return red, green, blue


def gray(value: float, blueness: float = 0) -> Rgb:
    """Return a gray (0..255), its blue raised by `blueness`."""
    return value, value, value + blueness


class Canvas:
    """A square picture drawn in units of 1/64 of its side, at `size_px` pixels.

    Drawn at twice the wanted size and halved at the end, edges come out smooth.
    """

    def __init__(self, size_px: int) -> None:
        """Start a black picture of size_px × size_px."""
        self.scale = size_px / UNITS
        self.size_px = size_px
        self.image = Image.new("RGB", (size_px, size_px))
        self.draw = ImageDraw.Draw(self.image)

    def gradient(self, top: Rgb, bottom: Rgb, y0: float = 0, y1: float = UNITS) -> None:
        """Fill rows y0..y1 with a vertical gradient."""
        first, last = round(y0 * self.scale), round(y1 * self.scale)
        mix = np.linspace(0, 1, max(1, last - first))[:, None, None]
        rows = np.array(top) * (1 - mix) + np.array(bottom) * mix
        self.pixels(np.repeat(rows, self.size_px, 1), y0)

    def pixels(self, rgb: np.ndarray, y0: float = 0) -> None:
        """Paste (rows, size_px, 3) values of 0..255 from row y0 down."""
        band = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
        self.image.paste(band, (0, round(y0 * self.scale)))

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x of shape (1, size_px) and y of shape (size_px, 1), in units."""
        axis = np.arange(self.size_px) / self.scale
        return axis[None], axis[:, None]

    def rectangle(
        self, x0: float, y0: float, x1: float, y1: float, fill: Rgb, radius: float = 0
    ) -> None:
        """Fill a rectangle, its corners rounded by `radius`."""
        self.draw.rounded_rectangle(
            self._box(x0, y0, x1, y1), radius * self.scale, fill=_ints(fill)
        )

    def frame(
        self, x0: float, y0: float, x1: float, y1: float, color: Rgb, *, radius: float, width: float
    ) -> None:
        """Outline a rounded rectangle."""
        box, line_px = self._box(x0, y0, x1, y1), max(1, round(width * self.scale))
        self.draw.rounded_rectangle(box, radius * self.scale, outline=_ints(color), width=line_px)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        """Fill the ellipse that touches the box's sides."""
        self.draw.ellipse(self._box(x0, y0, x1, y1), fill=_ints(fill))

    def dot(self, x: float, y: float, radius: float, fill: Rgb) -> None:
        """Fill a circle around (x, y)."""
        self.ellipse(x - radius, y - radius, x + radius, y + radius, fill)

    def polygon(self, points: Sequence[tuple[float, float]], fill: Rgb) -> None:
        """Fill a polygon."""
        self.draw.polygon([(x * self.scale, y * self.scale) for x, y in points], fill=_ints(fill))

    def line(
        self, x0: float, y0: float, x1: float, y1: float, color: Rgb, width: float = 1
    ) -> None:
        """Draw a straight line."""
        self.draw.line(
            self._box(x0, y0, x1, y1), fill=_ints(color), width=max(1, round(width * self.scale))
        )

    def arc(self, x0: float, y0: float, x1: float, y1: float, color: Rgb, *, upper: bool) -> None:
        """Draw the upper or the lower half of an ellipse's outline, one unit thick."""
        angles = (180, 360) if upper else (0, 180)
        line_px = max(1, round(self.scale))
        self.draw.arc(self._box(x0, y0, x1, y1), *angles, fill=_ints(color), width=line_px)

    def prop(self, icon: str, x: float, foot: float, height: float) -> None:
        """Stand a prop of the sheet on (x, foot)."""
        side_px = round(height * self.scale)
        image = sprite(icon, "flat").resize((side_px, side_px), Image.Resampling.LANCZOS)
        left, top = round((x - height / 2) * self.scale), round((foot - height) * self.scale)
        self.image.paste(image, (left, top), image)

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        return x0 * self.scale, y0 * self.scale, x1 * self.scale, y1 * self.scale


def _ints(color: Rgb) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(value))) for value in color)
    return red, green, blue
