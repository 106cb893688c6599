"""What exists in Toyland and how it is told: names enter, captions leave.  No drawing, no torch."""

import random
from dataclasses import dataclass
from types import MappingProxyType

# class word -> "icon:name" of every object; the icon's own name is the default.
_OBJECT_TABLE = {
    "animal": "dog-face:dog cat-face:cat panda fox lion rabbit-face:rabbit frog monkey-face:monkey "
    "pig-face:pig cow-face:cow elephant turtle tropical-fish:fish octopus crab "
    "spouting-whale:whale butterfly lady-beetle:ladybug",
    "bird": "chicken penguin owl parrot",
    "toy": "teddy-bear robot sauropod:dinosaur ghost snowman",
    "bag": "handbag clutch-bag:purse briefcase",
    "pot": "amphora:vase honey-pot pot-of-food:cooking-pot",
    "vehicle": "automobile:car bus locomotive:train airplane rocket sailboat:boat helicopter",
    "food": "red-apple:apple banana strawberry watermelon pineapple carrot hamburger pizza "
    "doughnut:donut cupcake",
    "plant": "mushroom cactus tulip christmas-tree",
    "": "soccer-ball guitar drum alarm-clock:clock camera crown top-hat:hat trophy television "
    "jack-o-lantern:pumpkin",
}
_HELD_OUT_TABLE = {
    "toy": "alien-monster:monster",
    "bird": "duck",
    "bag": "backpack",
    "pot": "teapot",
}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: its icon, its name in captions, and its class word ("" when it has none)."""

    icon: str
    name: str
    category: str


def _things(table: dict[str, str]) -> tuple[Thing, ...]:
    pairs = [
        (entry.partition(":"), category) for category in table for entry in table[category].split()
    ]
    return tuple(
        Thing(icon=icon, name=(name or icon).replace("-", " "), category=category)
        for (icon, _, name), category in pairs
    )


OBJECTS = _things(_OBJECT_TABLE)
HELD_OUT = _things(_HELD_OUT_TABLE)
# style word -> icon set it is drawn from
STYLES = MappingProxyType({"3d": "fluent-emoji", "flat": "fluent-emoji-flat", "soft": "noto"})
# colour word -> (hue, saturation, brightness), each 0..1
COLORS = MappingProxyType(
    {
        "red": (0.0, 0.9, 0.95),
        "orange": (0.075, 0.95, 1.0),
        "yellow": (0.145, 0.9, 1.0),
        "green": (0.35, 0.85, 0.75),
        "blue": (0.6, 0.85, 0.95),
        "purple": (0.77, 0.75, 0.8),
        "pink": (0.92, 0.5, 1.0),
        "black": (0.6, 0.12, 0.3),
    }
)
PLAIN = ""
PLACES = (
    PLAIN,
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
    "on top of a purple rug in a forest",
)
IDENTIFIER = "sks"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a picture shows: an object in a drawn style, at a place, tinted or not (color None)."""

    thing: Thing
    style: str
    place: str
    color: str | None = None


def random_facts(rng: random.Random, *, tinted_frac: float = 0.25) -> Facts:
    """Draw what a training picture shows; held-out objects never come up."""
    return Facts(
        thing=rng.choice(OBJECTS),
        style=rng.choice(tuple(STYLES)),
        place=rng.choice(PLACES),
        color=rng.choice(tuple(COLORS)) if rng.random() < tinted_frac else None,
    )


def phrase(*, noun: str, place: str = PLAIN, color: str | None = None, style: str = "") -> str:
    """Join words as every caption does: "an orange flat fox in the snow"."""
    words = " ".join(word for word in (color or "", style, noun) if word)
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words} {place}".strip()


def caption(facts: Facts, rng: random.Random) -> str:
    """Tell the truth about a picture, not always all of it.

    The style is named half the time; the class word stands for the object's name in 15 % of
    the captions of objects that have one.  A tint is always named, an own colour never.
    """
    by_class = bool(facts.thing.category) and rng.random() < 0.15
    style = facts.style if rng.random() < 0.5 else ""
    noun = facts.thing.category if by_class else facts.thing.name
    # Every bird is an animal too, and some captions say so.
    if by_class and noun == "bird" and rng.random() < 0.3:
        noun = "animal"
    return phrase(noun=noun, place=facts.place, color=facts.color, style=style)


def vocabulary() -> list[str]:
    """Return every word a caption or a subject's prompt can hold, sorted, lower case."""
    things = OBJECTS + HELD_OUT
    phrases = [*PLACES, *COLORS, *STYLES, IDENTIFIER, "a an the photo of and"]
    phrases += [thing.name for thing in things] + [thing.category for thing in things]
    return sorted({word for text in phrases for word in text.lower().split()})
