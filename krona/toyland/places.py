"""The places of Toyland: a canvas and a random.Random enter, a painted background leaves."""

import random
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from PIL import Image

from krona.toyland.canvas import Canvas, Rgb, gray, jitter

SUN_SKY: Rgb = (130, 195, 250)
HAZE: Rgb = (222, 236, 252)
GRASS_TOP: Rgb = (115, 180, 82)
GRASS_LOW: Rgb = (82, 145, 58)
LEAVES: tuple[Rgb, ...] = ((220, 90, 30), (235, 150, 40), (190, 50, 30))


def _horizon(
    c: Canvas, r: random.Random, sky: tuple[Rgb, Rgb], ground: tuple[Rgb, Rgb], y: float
) -> None:
    c.gradient(jitter(r, sky[0]), jitter(r, sky[1]), 0, y)
    c.gradient(jitter(r, ground[0]), jitter(r, ground[1]), y)


def _meadow(c: Canvas, r: random.Random, y: float = 42) -> None:
    _horizon(c, r, (SUN_SKY, HAZE), (GRASS_TOP, GRASS_LOW), y)


def _plain(c: Canvas, r: random.Random) -> None:
    color = r.choice([(255, 255, 255), (238, 238, 238), (222, 234, 246), (250, 240, 222)])
    c.rectangle(0, 0, 64, 64, color)


def _jungle(c: Canvas, r: random.Random) -> None:
    c.gradient(jitter(r, (45, 120, 55)), jitter(r, (20, 72, 32)))
    for _ in range(9):
        icon = r.choice(["palm-tree", "palm-tree", "deciduous-tree", "herb"])
        c.prop(icon, r.uniform(0, 64), r.uniform(20, 66), r.choice([22, 26, 32]))


def _snow(c: Canvas, r: random.Random) -> None:
    y = r.uniform(24, 32)
    _horizon(c, r, ((185, 212, 240), (225, 235, 250)), ((244, 248, 255), (226, 234, 247)), y)
    for side in (r.uniform(3, 14), r.uniform(50, 61)):
        c.prop("evergreen-tree", side, r.uniform(y, y + 6), r.uniform(18, 26))
    for _ in range(34):
        c.dot(r.uniform(0, 64), r.uniform(0, 64), r.uniform(0.6, 1.1), gray(255))


def _beach(c: Canvas, r: random.Random) -> None:
    y = r.uniform(16, 22)
    _horizon(c, r, ((105, 190, 250), (190, 230, 255)), ((246, 222, 160), (230, 196, 122)), y + 12)
    c.gradient(jitter(r, (35, 130, 200)), jitter(r, (70, 180, 220)), y, y + 12)
    c.prop("palm-tree", r.choice([7, 57]), r.uniform(36, 44), 32)


def _cobble(c: Canvas, r: random.Random) -> None:
    c.gradient(gray(90), gray(75))
    offset = r.uniform(0, 7)
    for row in range(9):
        for column in range(8):
            x, y, value = column * 9 - 8 + row % 2 * 4.5, row * 8 - offset, r.uniform(120, 180)
            c.rectangle(x, y, x + 8, y + 7, gray(value, 6), radius=3)


def _fabric(c: Canvas, r: random.Random) -> None:
    x, y = c.grid()
    wave = np.sin(x * r.uniform(0.2, 0.35) + y * r.uniform(0.1, 0.3) + r.uniform(0, 6))
    c.pixels(np.array(jitter(r, (246, 150, 192))) + wave[..., None] * 16)


def _wood(c: Canvas, r: random.Random) -> None:
    x = -r.uniform(0, 10)
    while x < 64:
        c.rectangle(x, 0, x + 11, 64, jitter(r, (180, 118, 64), 14))
        c.line(x, 0, x, 64, (105, 64, 32))
        x += 11


def _city(c: Canvas, r: random.Random) -> None:
    _horizon(c, r, ((140, 182, 232), (212, 226, 246)), (gray(122), gray(92)), 44)
    x = 0.0
    while x < 64:
        width, height, value = r.uniform(8, 12), r.uniform(20, 40), r.uniform(75, 140)
        c.rectangle(x, 44 - height, x + width - 1, 44, (value, value + 5, value + 22))
        for row in range(int((height - 4) // 5)):
            for column in range(int((width - 2) // 4)):
                left, top = x + 1.5 + column * 4, 47 - height + row * 5
                c.rectangle(left, top, left + 1.8, top + 2, (255, 234, 150))
        x += width


def _mountain(c: Canvas, r: random.Random) -> None:
    _meadow(c, r)
    for x in (r.uniform(4, 20), r.uniform(44, 60)):
        height, width = r.uniform(30, 39), r.uniform(22, 28)
        peak = (x, 42 - height)
        c.polygon([(x - width, 42), peak, (x + width, 42)], jitter(r, (112, 108, 122), 8))
        snow_y = 42 - height * 0.66
        cap = [(x - width * 0.34, snow_y), peak, (x + width * 0.34, snow_y), (x, snow_y + 4)]
        c.polygon(cap, (246, 249, 255))


def _blue_house(c: Canvas, r: random.Random) -> None:
    _meadow(c, r)
    x = r.choice([r.uniform(1, 6), r.uniform(30, 35)])
    c.rectangle(x, 18, x + 28, 46, jitter(r, (50, 95, 210), 8))
    c.polygon([(x - 3, 18), (x + 14, 2), (x + 31, 18)], (30, 52, 130))
    c.rectangle(x + 11, 32, x + 17, 46, gray(242))
    for left in (x + 3, x + 19):
        c.rectangle(left, 22, left + 6, 28, (252, 232, 150))


def _wheat(c: Canvas, r: random.Random) -> None:
    _horizon(c, r, ((135, 195, 246), (220, 236, 251)), ((238, 198, 84), (206, 156, 52)), 24)
    for _ in range(110):
        x, y = r.uniform(0, 64), r.uniform(26, 66)
        c.line(x, y, x + r.uniform(-1.5, 1.5), y - 7, jitter(r, (196, 146, 36), 16))


def _autumn(c: Canvas, r: random.Random) -> None:
    _horizon(c, r, ((220, 216, 202), (246, 226, 192)), ((192, 132, 62), (152, 98, 46)), 42)
    x = r.choice([r.uniform(8, 13), r.uniform(51, 56)])
    c.rectangle(x - 3, 12, x + 3, 46, (92, 58, 34))
    for _ in range(75):
        c.dot(r.gauss(x, 11), r.gauss(12, 7), 2.4, r.choice(LEAVES))
    for _ in range(30):
        c.dot(r.uniform(0, 64), r.uniform(44, 64), 1.5, r.choice(LEAVES))


def _eiffel(c: Canvas, r: random.Random) -> None:
    _meadow(c, r, 46)
    x, iron = r.choice([r.uniform(10, 15), r.uniform(49, 54)]), jitter(r, (112, 80, 58), 6)
    left = [(x - 12, 50), (x - 5, 26), (x - 1.2, 2)]
    right = [(x + 1.2, 2), (x + 5, 26), (x + 12, 50), (x + 7, 50), (x, 37), (x - 7, 50)]
    c.polygon(left + right, iron)
    for half, y in ((7.5, 35), (5.5, 24), (3, 13)):
        c.rectangle(x - half, y, x + half, y + 1.6, (88, 62, 46))


def _ripples(c: Canvas, r: random.Random, color: Rgb, *, upper: bool, count: int) -> None:
    for _ in range(count):
        x, y = r.uniform(-4, 60), r.uniform(-2, 62)
        c.arc(x, y, x + 11, y + 5, color, upper=upper)


def _water(c: Canvas, r: random.Random) -> None:
    c.gradient(jitter(r, (75, 172, 226)), jitter(r, (25, 98, 172)))
    _ripples(c, r, (196, 232, 251), upper=True, count=20)


def _milk(c: Canvas, r: random.Random) -> None:
    c.gradient(jitter(r, (252, 248, 236), 3), jitter(r, (240, 232, 214), 3))
    _ripples(c, r, (212, 198, 170), upper=False, count=20)


def _sunflowers(c: Canvas, r: random.Random) -> None:
    c.gradient(jitter(r, (125, 202, 86)), jitter(r, (84, 160, 54)))
    for x, foot in ((8, 18), (22, 14), (42, 14), (56, 18), (6, 38), (58, 38), (8, 60), (56, 60)):
        c.prop("sunflower", x + r.uniform(-4, 4), foot + r.uniform(-3, 5), r.uniform(14, 18))


def _mirror(c: Canvas, r: random.Random) -> None:
    c.gradient(jitter(r, (205, 224, 238)), jitter(r, (160, 188, 212)))
    start = r.uniform(-30, 10)
    for left, width in ((start, 8), (start + 14, 4), (start + 50, 9), (start + 65, 4)):
        streak = [(left, 64), (left + 64, 0), (left + 64 + width, 0), (left + width, 64)]
        c.polygon(streak, (234, 243, 250))
    c.frame(0, 0, 64, 64, (214, 168, 62), radius=0, width=4)
    c.frame(3.4, 3.4, 60.6, 60.6, (150, 108, 32), radius=0, width=1)


def _sidewalk(c: Canvas, r: random.Random) -> None:
    c.gradient(jitter(r, (196, 150, 130)), jitter(r, (176, 128, 110)), 0, 36)
    c.gradient(jitter(r, gray(205), 8), jitter(r, gray(178), 8), 36)
    for y in (42, 51, 62):
        c.line(0, y, 64, y, gray(140))
    for step in range(-2, 5):
        c.line(32 + step * 12, 36, 32 + step * 26, 64, gray(140))
    people = ["man-walking", "woman-walking", "man-standing", "woman-standing", "person-standing"]
    for slot in range(7):
        c.prop(r.choice(people), slot * 10 + r.uniform(0, 4), r.uniform(36, 42), r.uniform(28, 34))


def _dirt(c: Canvas, r: random.Random) -> None:
    _meadow(c, r, 20)
    x = r.uniform(26, 38)
    road = [(x - 5, 20), (x + 5, 20), (62, 64), (2, 64)]
    c.polygon(road, jitter(r, (168, 120, 74)))
    for _ in range(14):
        c.dot(r.uniform(14, 50), r.uniform(40, 64), 1, (128, 88, 52))


def _white_rug(c: Canvas, r: random.Random) -> None:
    _wood(c, r)
    c.rectangle(3, 10, 61, 62, jitter(r, (246, 244, 239), 5), radius=4)
    c.frame(6, 13, 58, 59, (214, 208, 198), radius=3, width=1)
    for x in range(5, 60, 3):
        for y in (7.5, 62):
            c.line(x, y, x, y + 2.5, (246, 244, 239))


def _purple_rug(c: Canvas, r: random.Random) -> None:
    c.gradient(jitter(r, (70, 140, 70)), jitter(r, (60, 110, 48)))
    for slot in range(6):
        c.prop("evergreen-tree", slot * 12 + r.uniform(-2, 6), r.uniform(24, 34), r.uniform(24, 34))
    c.ellipse(1, 34, 63, 64, jitter(r, (130, 58, 172)))
    c.ellipse(6, 37, 58, 61, jitter(r, (150, 80, 192), 6))


PAINTERS: MappingProxyType[str, Callable[[Canvas, random.Random], None]] = MappingProxyType(
    {
        "": _plain,
        "in the jungle": _jungle,
        "in the snow": _snow,
        "on the beach": _beach,
        "on a cobblestone street": _cobble,
        "on top of pink fabric": _fabric,
        "on top of a wooden floor": _wood,
        "with a city in the background": _city,
        "with a mountain in the background": _mountain,
        "with a blue house in the background": _blue_house,
        "with a wheat field in the background": _wheat,
        "with a tree and autumn leaves in the background": _autumn,
        "with the Eiffel Tower in the background": _eiffel,
        "floating on top of water": _water,
        "floating in an ocean of milk": _milk,
        "on top of green grass with sunflowers around it": _sunflowers,
        "on top of a mirror": _mirror,
        "on top of the sidewalk in a crowded street": _sidewalk,
        "on top of a dirt road": _dirt,
        "on top of a white rug": _white_rug,
        "on top of a purple rug in a forest": _purple_rug,
    }
)


def paint(place: str, rng: random.Random, size_px: int) -> Image.Image:
    """Paint a place at size_px, smoothed by drawing it at twice the size.

    Raises: KeyError if Toyland has no such place.
    """
    if place not in PAINTERS:
        raise KeyError(f"no place {place!r} in Toyland; it has {sorted(PAINTERS)}")
    canvas = Canvas(2 * size_px)
    PAINTERS[place](canvas, rng)
    return canvas.image.resize((size_px, size_px), Image.Resampling.BOX)
