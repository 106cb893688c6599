"""Toyland's captions tell the truth and never the held-out subjects."""

import random

import pytest

from krona.toyland import world
from krona.toyland.world import Facts


def facts_of(name: str, **changes: str) -> Facts:
    thing = next(thing for thing in world.OBJECTS if thing.name == name)
    return Facts(
        thing=thing, style="flat", place=changes.get("place", ""), color=changes.get("color")
    )


def test_a_phrase_orders_color_style_noun_place() -> None:
    told = world.phrase(noun="fox", place="in the snow", color="orange", style="flat")
    assert told == "an orange flat fox in the snow"


def test_every_caption_word_is_true_of_its_picture() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        facts = world.random_facts(rng)
        thing = facts.thing
        true_words = {
            "a",
            "an",
            facts.style,
            facts.color,
            *thing.name.split(),
            *facts.place.split(),
        }
        true_words |= {thing.category} | ({"animal"} if thing.category == "bird" else set())
        told = set(world.caption(facts, rng).split())
        assert told <= true_words, (told - true_words, facts)


def test_a_tint_is_always_told_and_an_own_color_never() -> None:
    rng = random.Random(1)
    assert all(
        "red" in world.caption(facts_of("dog", color="red"), rng).split() for _ in range(100)
    )
    assert all("red" not in world.caption(facts_of("apple"), rng).split() for _ in range(100))


def test_styles_and_class_words_come_at_their_rates() -> None:
    rng = random.Random(2)
    told = [world.caption(facts_of("car"), rng) for _ in range(4000)]
    assert sum("flat" in text for text in told) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sum("vehicle" in text for text in told) / 4000 == pytest.approx(0.15, abs=0.02)


def test_held_out_objects_never_come_up() -> None:
    rng = random.Random(3)
    held_out = {thing.name for thing in world.HELD_OUT}
    assert held_out == {"monster", "duck", "backpack", "teapot"}
    for _ in range(5000):
        facts = world.random_facts(rng)
        assert facts.thing.name not in held_out
        assert not held_out & set(world.caption(facts, rng).split())


@pytest.mark.parametrize("thing", world.HELD_OUT, ids=lambda thing: thing.name)
def test_each_held_out_class_word_is_carried_by_three_training_objects(thing: world.Thing) -> None:
    assert sum(other.category == thing.category for other in world.OBJECTS) >= 3


def test_names_are_unique_and_counts_are_those_of_the_card() -> None:
    names = [thing.name for thing in world.OBJECTS + world.HELD_OUT]
    assert len(set(names)) == len(names)
    assert (len(world.OBJECTS), len(world.PLACES), len(world.COLORS)) == (64, 21, 8)
