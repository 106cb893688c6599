"""Draw the held-out subjects' photos once: nothing enters, subjects/<name>/ leaves.

`python -m krona.toyland.subjects` redraws them; each subject is one sprite in five pictures.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from krona.toyland import places, world
from krona.toyland.embedded import SUBJECTS
from krona.toyland.scenes import Pose, place_object
from krona.toyland.world import Facts, Thing

PHOTO_PX = 128
STYLE_OF = {
    "monster": "3d",
    "duck": "soft",
    "peacock": "3d",
    "backpack": "3d",
    "teapot": "soft",
    "raccoon": "3d",
    "scooter": "soft",
    "taxi": "flat",
    "sneaker": "soft",
    "cake": "3d",
    "saxophone": "soft",
    "hibiscus": "3d",
}
# Most prompts ask for places that no photo shows.
PHOTO_PLACES = (
    world.PLAIN,
    "on top of a wooden floor",
    "on top of a dirt road",
    "on top of a white rug",
    "with a city in the background",
)
PLACE_PROMPTS = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} with a mountain in the background",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} on top of pink fabric",
    "a {} with a wheat field in the background",
)
LOOK_PROMPTS = ("a red {}", "a blue {}", "a flat {}")
ACCESSORY_PROMPTS = ("a {} wearing a santa hat", "a {} wearing a rainbow scarf", "a blue {}")


@dataclass(frozen=True, kw_only=True)
class DrawSubjects:
    """Where the photos go and which random stream poses them."""

    output: Path = SUBJECTS
    seed: int = 7


def photo_pose(rng: random.Random) -> Pose:
    """Draw a pose: looser than in training pictures, still mostly filling the photo."""
    side = rng.uniform(0.58, 0.76)
    return Pose(
        side_frac=side,
        x_frac=0.5 + rng.uniform(-0.08, 0.08),
        y_frac=1.0 - side / 2 - rng.uniform(0.02, 0.12),
        angle_deg=rng.uniform(-10, 10),
    )


def prompts_of(thing: Thing) -> tuple[str, ...]:
    """Return the prompts to score a subject with: nine places, then looks or accessories."""
    return PLACE_PROMPTS + (ACCESSORY_PROMPTS if thing.has_face else LOOK_PROMPTS)


def subject_toml(thing: Thing) -> str:
    """Return the description file of one subject."""
    prompts = "".join(f'    "{prompt}",\n' for prompt in prompts_of(thing))
    return (
        f'name = "{thing.name}"\nclass = "{thing.category}"\nidentifier = "{world.IDENTIFIER}"\n'
        f"# {{}} becomes the identifier and the class word.\nprompts = [\n{prompts}]\n"
    )


def draw_subjects(config: DrawSubjects) -> None:
    """Write five photos and subject.toml for every held-out object."""
    rng = random.Random(config.seed)
    for thing in world.HELD_OUT:
        folder = config.output / thing.name
        folder.mkdir(parents=True, exist_ok=True)
        for number, place in enumerate(PHOTO_PLACES):
            facts = Facts(thing=thing, style=STYLE_OF[thing.name], place=place)
            photo = place_object(places.paint(place, rng, PHOTO_PX), facts, photo_pose(rng))
            photo.save(folder / f"{number}.png", optimize=True)
        (folder / "subject.toml").write_text(subject_toml(thing), encoding="utf-8")


if __name__ == "__main__":
    import tyro

    draw_subjects(tyro.cli(DrawSubjects))
