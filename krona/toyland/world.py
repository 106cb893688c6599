"""What exists in Toyland and how it is told: names enter, captions leave.  No drawing, no torch."""

import random
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

# class word -> "icon:name" of every object; the icon's own name is the default.
# "face" animals are drawn from the front, so that they can wear things; captions call them animals.
_OBJECT_TABLE = {
    "face": "dog-face:dog cat-face:cat panda fox lion rabbit-face:rabbit frog monkey-face:monkey "
    "pig-face:pig cow-face:cow bear tiger-face:tiger koala mouse-face:mouse hamster wolf",
    "animal": "elephant turtle tropical-fish:fish octopus crab spouting-whale:whale butterfly "
    "lady-beetle:ladybug snail honeybee:bee shark hedgehog giraffe camel ewe:sheep "
    "horse-face:horse unicorn jellyfish snake",
    "bird": "chicken penguin owl parrot swan flamingo eagle rooster baby-chick:chick",
    "toy": "teddy-bear robot sauropod:dinosaur ghost snowman nesting-dolls:doll yo-yo:yoyo kite "
    "balloon puzzle-piece",
    "bag": "handbag clutch-bag:purse briefcase luggage:suitcase",
    "pot": "amphora:vase honey-pot pot-of-food:cooking-pot funeral-urn:urn",
    "vehicle": "automobile:car bus locomotive:train airplane rocket sailboat:boat helicopter "
    "delivery-truck:truck ambulance fire-engine police-car tractor bicycle motorcycle "
    "flying-saucer",
    "food": "red-apple:apple banana strawberry watermelon pineapple carrot hamburger pizza "
    "doughnut:donut cupcake tangerine lemon pear peach cherries grapes tomato eggplant avocado "
    "broccoli ear-of-corn:corn bread croissant pretzel cheese-wedge:cheese pancakes hot-dog "
    "french-fries soft-ice-cream:ice-cream lollipop",
    "plant": "mushroom cactus tulip christmas-tree rose maple-leaf shamrock potted-plant",
    "shoe": "high-heeled-shoe:high-heel hiking-boot:boot thong-sandal:sandal roller-skate",
    "instrument": "guitar drum violin trumpet accordion musical-keyboard:keyboard",
    "": "soccer-ball basketball alarm-clock:clock camera crown top-hat:hat trophy television "
    "jack-o-lantern:pumpkin key bell closed-book:book scissors magnet telescope telephone "
    "radio wrapped-gift:gift candle crystal-ball anchor hourglass-done:hourglass star "
    "red-paper-lantern:lantern bucket chair castle skateboard boxing-glove globe-showing-americas:"
    "globe fire-extinguisher t-shirt:shirt dress",
}
# A taxi's class is "car": a subject next to something that the model knows.
_HELD_OUT_TABLE = {
    "toy": "alien-monster:monster",
    "bird": "duck peacock",
    "bag": "backpack",
    "pot": "teapot",
    "face": "raccoon",
    "vehicle": "motor-scooter:scooter",
    "car": "taxi",
    "shoe": "running-shoe:sneaker",
    "food": "birthday-cake:cake",
    "instrument": "saxophone",
    "plant": "hibiscus",
}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: its icon, its name in captions, and its class word ("" when it has none)."""

    icon: str
    name: str
    category: str
    has_face: bool = False
    """Whether it is an animal seen from the front, which can wear an accessory."""


def _things(table: dict[str, str]) -> tuple[Thing, ...]:
    pairs = [
        (entry.partition(":"), category) for category in table for entry in table[category].split()
    ]
    return tuple(
        Thing(
            icon=icon,
            name=(name or icon).replace("-", " "),
            category="animal" if category == "face" else category,
            has_face=category == "face",
        )
        for (icon, _, name), category in pairs
    )


OBJECTS = _things(_OBJECT_TABLE)
HELD_OUT = _things(_HELD_OUT_TABLE)
# Never used to choose a default: only final reports show them.
RESERVED = ("cake", "peacock", "raccoon", "saxophone")
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
NOTHING = ""
# DreamBench's prompts for live subjects, those that can be drawn on a face.
ACCESSORIES = (
    NOTHING,
    "wearing a red hat",
    "wearing a santa hat",
    "wearing a rainbow scarf",
    "wearing a black top hat and a monocle",
    "wearing pink glasses",
)
IDENTIFIER = "sks"
# Share of captions by class word: new subjects are asked for by it.
CLASS_FRAC = 0.3
# Share of captions with the identifier, which means nothing there, as a rare token should.
IDENTIFIER_FRAC = 0.1
# Share of captions without the place: else no place named would mean a plain backdrop, and photos
# of a subject under such a caption would teach their backgrounds.
PLACELESS_FRAC = 0.3


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a picture shows: an object in a drawn style, at a place, tinted or not (color None)."""

    thing: Thing
    style: str
    place: str
    color: str | None = None
    accessory: str = NOTHING


def is_unseen(thing: Thing, place: str) -> bool:
    """Whether training never shows the object at this place: so it is for a tenth of all pairs."""
    return place != PLAIN and (OBJECTS.index(thing) + 3 * PLACES.index(place)) % 10 == 0


@cache
def seen_places(thing: Thing) -> tuple[str, ...]:
    """Return the places at which training shows an object; held-out objects go anywhere."""
    return tuple(p for p in PLACES if thing not in OBJECTS or not is_unseen(thing, p))


def random_facts(
    rng: random.Random, *, tinted_frac: float = 0.2, dressed_frac: float = 0.3
) -> Facts:
    """Draw what a training picture shows; held-out objects and unseen pairs never come up.

    Args:
        tinted_frac: share of the pictures whose object has a colour of its own choosing.
        dressed_frac: share of the pictures of animals with a face that wear an accessory.
    """
    thing = rng.choice(OBJECTS)
    is_dressed = thing.has_face and rng.random() < dressed_frac
    return Facts(
        thing=thing,
        style=rng.choice(tuple(STYLES)),
        place=rng.choice(seen_places(thing)),
        color=rng.choice(tuple(COLORS)) if rng.random() < tinted_frac else None,
        accessory=rng.choice(ACCESSORIES[1:]) if is_dressed else NOTHING,
    )


def phrase(
    *,
    noun: str,
    place: str = PLAIN,
    color: str | None = None,
    style: str = "",
    accessory: str = NOTHING,
) -> str:
    """Join words as every caption does: "an orange flat fox wearing a red hat in the snow"."""
    words = " ".join(word for word in (color or "", style, noun) if word)
    article = "an" if words[0] in "aeiou" else "a"
    return " ".join(part for part in (article, words, accessory, place) if part)


def caption(facts: Facts, rng: random.Random) -> str:
    """Tell the truth about a picture, not always all of it.

    The style is named half the time; the class word stands for the object's name in 30 % of
    the captions of objects that have one.  Tint and accessory are always named, an own colour
    never; the place is left out of 30 %.  The identifier stands before a tenth of all nouns, and
    says nothing.
    """
    by_class = bool(facts.thing.category) and rng.random() < CLASS_FRAC
    style = facts.style if rng.random() < 0.5 else ""
    noun = facts.thing.category if by_class else facts.thing.name
    # Every bird is an animal too, and some captions say so.
    if by_class and noun == "bird" and rng.random() < 0.3:
        noun = "animal"
    if rng.random() < IDENTIFIER_FRAC:
        noun = f"{IDENTIFIER} {noun}"
    place = PLAIN if rng.random() < PLACELESS_FRAC else facts.place
    return phrase(noun=noun, place=place, color=facts.color, style=style, accessory=facts.accessory)


def vocabulary() -> list[str]:
    """Return every word a caption or a subject's prompt can hold, sorted, lower case."""
    things = OBJECTS + HELD_OUT
    phrases = [*PLACES, *COLORS, *STYLES, *ACCESSORIES, IDENTIFIER, "a an the photo of and"]
    phrases += [thing.name for thing in things] + [thing.category for thing in things]
    return sorted({word for text in phrases for word in text.lower().split()})
