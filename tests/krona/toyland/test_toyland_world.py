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


def test_a_phrase_names_the_accessory_before_the_place() -> None:
    told = world.phrase(noun="cat", place="in the snow", accessory="wearing pink glasses")
    assert told == "a cat wearing pink glasses in the snow"


def test_an_accessory_is_always_told_and_only_faces_wear_one() -> None:
    rng = random.Random(4)
    dressed = [facts for _ in range(4000) if (facts := world.random_facts(rng)).accessory]
    assert len(dressed) > 60
    assert all(facts.thing.has_face for facts in dressed)
    assert all(facts.accessory in world.caption(facts, rng) for facts in dressed)
    assert {facts.accessory for facts in dressed} == set(world.ACCESSORIES[1:])


def test_training_never_shows_the_tenth_of_pairs_that_measuring_asks_for() -> None:
    pairs = [(thing, place) for thing in world.OBJECTS for place in world.PLACES[1:]]
    unseen = {pair for pair in pairs if world.is_unseen(*pair)}
    assert len(unseen) == pytest.approx(len(pairs) / 10, rel=0.02)
    assert {thing for thing, _ in unseen} == set(world.OBJECTS)
    rng = random.Random(5)
    drawn = [world.random_facts(rng) for _ in range(5000)]
    assert not unseen & {(facts.thing, facts.place) for facts in drawn}


def test_every_caption_word_but_the_identifier_is_true_of_its_picture() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        facts = world.random_facts(rng)
        thing = facts.thing
        true_words = {
            "a",
            "an",
            world.IDENTIFIER,
            facts.style,
            facts.color,
            *thing.name.split(),
            *facts.place.split(),
            *facts.accessory.split(),
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


def test_styles_class_words_and_the_identifier_come_at_their_rates() -> None:
    rng = random.Random(2)
    told = [world.caption(facts_of("car"), rng) for _ in range(4000)]
    assert sum("flat" in text for text in told) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sum("sks" in text for text in told) / 4000 == pytest.approx(0.1, abs=0.015)
    assert sum("vehicle" in text for text in told) / 4000 == pytest.approx(0.3, abs=0.02)


def test_a_caption_names_the_place_or_none() -> None:
    rng = random.Random(6)
    facts = facts_of("dog", place="in the snow")
    told = [world.caption(facts, rng) for _ in range(4000)]
    told_frac = sum(text.endswith(" in the snow") for text in told) / 4000
    assert told_frac == pytest.approx(0.7, abs=0.03)
    assert all(set(text.split()) & {"dog", "animal"} for text in told)


def test_held_out_objects_never_come_up() -> None:
    rng = random.Random(3)
    held_out = {thing.name for thing in world.HELD_OUT}
    assert len(held_out) == 12
    assert set(world.RESERVED) < held_out
    for _ in range(5000):
        facts = world.random_facts(rng)
        assert facts.thing.name not in held_out
        assert not held_out & set(world.caption(facts, rng).split())


@pytest.mark.parametrize("thing", world.HELD_OUT, ids=lambda thing: thing.name)
def test_each_held_out_class_word_is_one_that_training_teaches(thing: world.Thing) -> None:
    carriers = sum(other.category == thing.category for other in world.OBJECTS)
    assert carriers >= 3 or thing.category in {other.name for other in world.OBJECTS}


def test_names_are_unique_and_counts_are_those_of_the_card() -> None:
    names = [thing.name for thing in world.OBJECTS + world.HELD_OUT]
    assert len(set(names)) == len(names)
    assert (len(world.OBJECTS), len(world.PLACES), len(world.COLORS)) == (158, 21, 8)
