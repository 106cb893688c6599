"""Scenes: facts and a random.Random enter, a picture (and its true caption) leaves."""

import random
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from krona.toyland import places, world
from krona.toyland.sprites import sprite
from krona.toyland.world import Facts

SIZE_PX = 64


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How the object stands; side and centre are shares of the picture's side."""

    side_frac: float
    x_frac: float
    y_frac: float
    angle_deg: float


def random_pose(rng: random.Random) -> Pose:
    """Draw a pose: large, low in the picture, hardly turned."""
    side = rng.uniform(0.68, 0.82)
    return Pose(
        side_frac=side,
        x_frac=0.5 + rng.uniform(-0.05, 0.05),
        y_frac=1.0 - side / 2 - rng.uniform(0.03, 0.09),
        angle_deg=rng.uniform(-5, 5),
    )


def place_object(background: Image.Image, facts: Facts, pose: Pose) -> Image.Image:
    """Return the square background with the object of the facts pasted on it."""
    side_px, size_px = round(pose.side_frac * background.width), background.width
    image = sprite(facts.thing.icon, facts.style, facts.color, facts.accessory)
    image = image.rotate(pose.angle_deg, Image.Resampling.BICUBIC)
    image = image.resize(
        (side_px, side_px), Image.Resampling.BOX if side_px < 90 else Image.Resampling.BICUBIC
    )
    left = round(pose.x_frac * size_px - side_px / 2)
    top = round(pose.y_frac * size_px - side_px / 2)
    scene = background.copy()
    scene.paste(image, (left, top), image)
    return scene


def draw(facts: Facts, rng: random.Random, *, size_px: int = SIZE_PX) -> Image.Image:
    """Draw a scene with a background of its own: (size_px, size_px) RGB."""
    return place_object(places.paint(facts.place, rng, size_px), facts, random_pose(rng))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and the facts it shows."""

    image: Image.Image
    facts: Facts


@dataclass(kw_only=True)
class Painter:
    """Draws many scenes fast: backgrounds are painted once and reused, mirrored half the time."""

    seed: int
    num_backgrounds: int = 48
    size_px: int = SIZE_PX
    rng: random.Random = field(init=False)
    backgrounds: dict[str, list[Image.Image]] = field(init=False)

    def __post_init__(self) -> None:
        """Paint every place num_backgrounds times."""
        self.rng = random.Random(self.seed)
        self.backgrounds = {
            place: [
                places.paint(place, self.rng, self.size_px) for _ in range(self.num_backgrounds)
            ]
            for place in world.PLACES
        }

    def scene(self, facts: Facts | None = None) -> Scene:
        """Draw one scene, of random facts unless given."""
        facts = facts or world.random_facts(self.rng)
        background = self.rng.choice(self.backgrounds[facts.place])
        if self.rng.random() < 0.5:
            background = background.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return Scene(image=place_object(background, facts, random_pose(self.rng)), facts=facts)


def pixels(scenes: list[Scene]) -> np.ndarray:
    """Stack scenes of one size into (num, size_px, size_px, 3) uint8."""
    return np.stack([np.asarray(scene.image) for scene in scenes])
