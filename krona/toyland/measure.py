"""Measure what is committed: `python -m krona.toyland.measure` enters, measured.json leaves."""

import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from PIL import Image
from rich.console import Console

from krona.toyland import places, world
from krona.toyland.embedded import CHECKPOINT, SCORER
from krona.toyland.pipeline import sample
from krona.toyland.scenes import SIZE_PX, Pose, draw, place_object, random_pose
from krona.toyland.scorer import Scorer, color_texts, object_texts, place_texts
from krona.toyland.train import MEASURE_SEED
from krona.toyland.train_autoencoder import measure_psnr
from krona.toyland.world import Facts, Thing

STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How much to sample and where the numbers go."""

    num_captions: int = 500
    guidance: float = 4.0
    seed: int = MEASURE_SEED
    threads: int = 2
    checkpoint: Path = CHECKPOINT
    scorer: Path = SCORER
    output: Path = Path(__file__).parent / "measured.json"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of pictures whose object, place and colour the scorer names first."""

    object: float
    place: float
    color: float


def unseen_facts(rng: random.Random, num: int) -> list[Facts]:
    """Draw objects at places where training never shows them, every third one tinted."""
    pairs = [
        (thing, place)
        for thing in world.OBJECTS
        for place in world.PLACES
        if world.is_unseen(thing, place)
    ]
    facts = []
    for number in range(num):
        color = rng.choice(tuple(world.COLORS)) if number % 3 == 0 else None
        thing, place = rng.choice(pairs)
        style = rng.choice(tuple(world.STYLES))
        facts.append(Facts(thing=thing, style=style, place=place, color=color))
    return facts


def prompt_of(facts: Facts) -> str:
    """Return the caption that names object, place and tint, but not the style."""
    return world.phrase(noun=facts.thing.name, place=facts.place, color=facts.color)


def accuracy(scorer: Scorer, images: list[Image.Image], facts: list[Facts]) -> Accuracy:
    """Ask the scorer for each picture's object among all, place among 20, and tint among 8."""
    things, spots, colors = list(world.OBJECTS), place_texts(), list(world.COLORS)
    named = scorer.best_texts(images, object_texts())
    found = scorer.best_texts(images, spots)
    tints = [
        colors[scorer.best_texts([image], color_texts(fact.thing.name))[0]] == fact.color
        for image, fact in zip(images, facts, strict=True)
        if fact.color
    ]
    return Accuracy(
        object=float(np.mean([things[n] == f.thing for n, f in zip(named, facts, strict=True)])),
        place=float(np.mean([spots[n] == f.place for n, f in zip(found, facts, strict=True)])),
        color=float(np.mean(tints)),
    )


def subject_auc(scorer: Scorer, rng: random.Random, num_each: int = 24) -> float:
    """Return how often two pictures of one held-out sprite are nearer than of two objects.

    Every sprite of the held-out objects (three styles each) is drawn at places of its own;
    pairs of one object in two styles are left out, for they are neither.
    """
    subjects = [(thing, style) for thing in world.HELD_OUT for style in world.STYLES]
    images = [_photo(thing, style, rng) for thing, style in subjects for _ in range(num_each)]
    embeds = scorer.images(images)
    sprite = torch.arange(len(subjects)).repeat_interleave(num_each)
    thing = sprite // len(world.STYLES)
    is_same = sprite[:, None] == sprite[None]
    counts = torch.triu(is_same | (thing[:, None] != thing[None]), 1)
    return area_under_curve((embeds @ embeds.T)[counts].numpy(), is_same[counts].numpy())


def _photo(thing: Thing, style: str, rng: random.Random) -> Image.Image:
    place = rng.choice(world.PLACES)
    facts = Facts(thing=thing, style=style, place=place)
    pose: Pose = random_pose(rng)
    return place_object(places.paint(place, rng, SIZE_PX), facts, pose)


def area_under_curve(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Return the chance that a positive outscores a negative: 0.5 is blind, 1 is perfect."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    rank_sum = float(ranks[is_positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def sample_all(config: Measure, facts: list[Facts]) -> list[Image.Image]:
    """Sample the facts' prompts in batches of 20, in float32."""
    pipe = load_pipeline(config.checkpoint)
    prompts = [prompt_of(fact) for fact in facts]
    images: list[Image.Image] = []
    for start in range(0, len(prompts), 20):
        batch = prompts[start : start + 20]
        images += sample(
            pipe, batch, seed=config.seed + start, steps=STEPS, guidance=config.guidance
        )
    return images


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Load a checkpoint for float32 sampling without a progress bar."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seconds_for_eight(config: Measure) -> float:
    """Return the seconds that eight guided pictures take, the second time."""
    pipe, prompts = load_pipeline(config.checkpoint), ["a dog in the jungle"] * 8
    for _ in range(2):
        started = time.perf_counter()
        sample(pipe, prompts, seed=0, steps=STEPS, guidance=config.guidance)
        seconds = time.perf_counter() - started
    return seconds


def measure(config: Measure) -> dict[str, object]:
    """Return every number of the model card."""
    torch.set_num_threads(config.threads)
    rng, scorer = random.Random(config.seed), Scorer.load(config.scorer)
    facts = unseen_facts(rng, config.num_captions)
    vae = AutoencoderTiny.from_pretrained(config.checkpoint / "vae", dtype=torch.float32)
    drawn = [draw(fact, rng) for fact in facts]
    return {
        "num_captions": config.num_captions,
        "guidance": config.guidance,
        "autoencoder_psnr_db": round(measure_psnr(vae.eval(), seed=config.seed), 2),
        "scorer_on_drawn_scenes": _rounded(accuracy(scorer, drawn, facts)),
        "scorer_on_samples": _rounded(accuracy(scorer, sample_all(config, facts), facts)),
        "subject_auc": round(subject_auc(scorer, rng), 4),
        "seconds_for_eight_images": round(seconds_for_eight(config), 2),
    }


def _rounded(found: Accuracy) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(found).items()}


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Measure)
    numbers = measure(settings)
    settings.output.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    Console().print_json(data=numbers)
