"""What animals wear: an animal's face enters as an RGBA picture, the dressed face leaves."""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from krona.toyland.world import NOTHING

Box = tuple[float, float, float, float]
RED, WHITE, INK, GOLD = (214, 30, 36), (250, 250, 250), (28, 28, 36), (240, 190, 50)
PINK = (255, 70, 160)
RAINBOW = ((226, 44, 44), (246, 150, 34), (250, 218, 60), (60, 170, 80), (60, 110, 220))
# Drawn large and reduced, so that edges come out smooth.
OVERSAMPLING = 4


class _Face:
    """A face in a square picture, and a brush whose unit is 1/100 of the picture's side."""

    def __init__(self, image: Image.Image, box: Box) -> None:
        """Shrink the face into box (left, top, right, bottom) of an empty picture."""
        side = image.width * OVERSAMPLING
        self.unit = side / 100
        self.image = Image.new("RGBA", (side, side))
        left, top, right, bottom = (round(edge * self.unit) for edge in box)
        face = image.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        self.image.paste(face, (left, top))
        self.draw = ImageDraw.Draw(self.image)
        middle = np.asarray(face)[:, face.width * 9 // 20 : face.width * 11 // 20, 3]
        shown = np.flatnonzero((middle > 128).all(1))
        # Ears stand beside the middle column, so that it shows the crown of the head.
        self.crown = (top + int(shown[0])) / self.unit
        self.chin = (top + int(shown[-1])) / self.unit
        self.eyes = self.crown + 0.42 * (self.chin - self.crown)

    def polygon(self, *points: tuple[float, float], fill: tuple[int, int, int]) -> None:
        self.draw.polygon([(x * self.unit, y * self.unit) for x, y in points], fill=fill)

    def ellipse(self, *box: float, fill: tuple[int, int, int]) -> None:
        self.draw.ellipse([edge * self.unit for edge in box], fill=fill)

    def bar(self, *box: float, fill: tuple[int, int, int]) -> None:
        self.draw.rounded_rectangle([edge * self.unit for edge in box], 3 * self.unit, fill=fill)

    def ring(self, x: float, y: float, *, radius: float, color: tuple[int, int, int]) -> None:
        box = [edge * self.unit for edge in (x - radius, y - radius, x + radius, y + radius)]
        self.draw.ellipse(box, outline=color, width=round(4.5 * self.unit))


def _red_hat(face: _Face) -> None:
    y = face.crown + 8
    face.ellipse(30, y - 30, 70, y + 20, fill=RED)
    face.bar(18, y - 6, 82, y + 4, fill=RED)
    face.bar(30, y - 12, 70, y - 5, fill=INK)


def _santa_hat(face: _Face) -> None:
    y = face.crown + 8
    face.polygon((28, y), (72, y), (84, y - 26), (58, y - 32), fill=RED)
    face.bar(22, y - 6, 78, y + 5, fill=WHITE)
    face.ellipse(78, y - 32, 93, y - 17, fill=WHITE)


def _top_hat(face: _Face) -> None:
    y = face.crown + 8
    face.polygon((32, y), (29, y - 32), (71, y - 32), (68, y), fill=INK)
    face.bar(17, y - 5, 83, y + 3, fill=INK)
    face.ring(65, face.eyes, radius=12, color=GOLD)
    face.polygon((75, face.eyes + 5), (78, face.eyes + 5), (80, 92), (77, 92), fill=GOLD)


def _glasses(face: _Face) -> None:
    for x in (32, 68):
        face.ring(x, face.eyes, radius=15, color=PINK)
    face.bar(45, face.eyes - 3, 55, face.eyes + 2, fill=PINK)


def _scarf(face: _Face) -> None:
    top, height = min(face.chin - 4, 80), 4
    for number, color in enumerate(RAINBOW):
        y = top + number * height
        face.bar(16, y, 84, y + height + 1, fill=color)
        x = 60 + number * height
        face.bar(x, top + 8, x + height + 1, 100, fill=color)


# accessory -> (where the face goes, what is drawn over it)
WARDROBE: MappingProxyType[str, tuple[Box, Callable[[_Face], None]]] = MappingProxyType(
    {
        "wearing a red hat": ((10, 20, 90, 100), _red_hat),
        "wearing a santa hat": ((10, 20, 90, 100), _santa_hat),
        "wearing a rainbow scarf": ((8, 0, 92, 84), _scarf),
        "wearing a black top hat and a monocle": ((10, 20, 90, 100), _top_hat),
        "wearing pink glasses": ((0, 0, 100, 100), _glasses),
    }
)


def dress(image: Image.Image, accessory: str) -> Image.Image:
    """Put an accessory on a square RGBA face; NOTHING leaves it as it is.

    Raises: KeyError if Toyland has no such accessory.
    """
    if accessory == NOTHING:
        return image
    if accessory not in WARDROBE:
        raise KeyError(f"no accessory {accessory!r} in Toyland; it has {sorted(WARDROBE)}")
    box, draw = WARDROBE[accessory]
    face = _Face(image, box)
    draw(face)
    return face.image.resize(image.size, Image.Resampling.BOX)
