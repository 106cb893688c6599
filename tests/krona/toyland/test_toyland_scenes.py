"""Toyland's pictures repeat under a seed and show what their facts say."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from krona.toyland import places, world
from krona.toyland.draw_sheet import sprite_keys
from krona.toyland.scenes import Painter, draw, pixels
from krona.toyland.sprites import CELL_PX, INDEX, SHEET, load_sprites, sprite, tint
from krona.toyland.world import Facts


def test_a_seed_repeats_its_scenes_and_another_seed_does_not() -> None:
    first, again, other = (
        pixels([painter.scene() for _ in range(4)])
        for painter in (Painter(seed=seed, num_backgrounds=2) for seed in (5, 5, 6))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_scenes_are_64_px_rgb_bytes() -> None:
    stacked = pixels([Painter(seed=0, num_backgrounds=1).scene()])
    assert (stacked.shape, stacked.dtype) == ((1, 64, 64, 3), np.dtype(np.uint8))


def test_the_index_names_each_cell_of_the_sheet_once() -> None:
    entries = json.loads(INDEX.read_text(encoding="utf-8"))
    told = [(entry["icon"], entry["style"], entry["role"]) for entry in entries]
    assert told == [(key.icon, key.style, key.role) for key in sprite_keys()]
    cells = {(entry["row"], entry["column"]) for entry in entries}
    assert len(cells) == len(entries)
    with Image.open(SHEET) as sheet:
        assert max(row for row, _ in cells) < sheet.height // CELL_PX
        assert max(column for _, column in cells) < sheet.width // CELL_PX


def test_every_sprite_fills_its_cell() -> None:
    for key, image in load_sprites().items():
        box = image.getchannel("A").getbbox()
        assert box is not None
        assert max(box[2] - box[0], box[3] - box[1]) >= CELL_PX - 6, key


def test_held_out_sprites_are_marked_and_are_no_training_objects() -> None:
    held_out = {key.icon for key in load_sprites() if key.role == "held_out"}
    objects = {key.icon for key in load_sprites() if key.role == "object"}
    assert held_out == {thing.icon for thing in world.HELD_OUT}
    assert objects == {thing.icon for thing in world.OBJECTS}
    assert not held_out & objects


def test_an_unknown_sprite_and_an_unknown_place_say_what_there_is() -> None:
    with pytest.raises(KeyError, match="no sprite 'yeti'"):
        sprite("yeti", "flat")
    with pytest.raises(KeyError, match="no accessory 'wearing a crown'"):
        sprite("fox", "flat", accessory="wearing a crown")
    with pytest.raises(KeyError, match="no place 'on the moon'"):
        places.paint("on the moon", random.Random(0), 64)


def test_every_place_has_a_painter_and_the_other_way_round() -> None:
    assert set(places.PAINTERS) == set(world.PLACES)


FACES = [thing for thing in world.OBJECTS if thing.has_face]


@pytest.mark.parametrize("accessory", world.ACCESSORIES[1:])
def test_every_face_can_wear_every_accessory_and_shows_below_it(accessory: str) -> None:
    for thing in FACES:
        for style in world.STYLES:
            bare, dressed = (
                np.asarray(sprite(thing.icon, style, accessory=worn)).astype(int)
                for worn in (world.NOTHING, accessory)
            )
            changed = (np.abs(bare - dressed).sum(-1) > 60).mean()
            assert 0.04 < changed < 0.8, (thing.name, style)
            assert (dressed[..., 3] > 200).mean() > 0.3, (thing.name, style)


def test_the_santa_hat_is_red_above_the_face() -> None:
    dressed = np.asarray(sprite("panda", "flat", accessory="wearing a santa hat")).astype(int)
    top = dressed[: CELL_PX // 4]
    red = (top[..., 3] > 200) & (top[..., 0] > 180) & (top[..., 1] < 80)
    assert red.mean() > 0.05


def test_a_tint_keeps_the_light_and_shade_of_pale_and_dark_sprites() -> None:
    for icon, style in (("snowman", "flat"), ("top-hat", "soft")):
        shown = np.asarray(tint(sprite(icon, style), "blue")).astype(float)
        lightness = shown[shown[..., 3] > 200][:, :3].mean(-1)
        assert lightness.std() > 20, (icon, lightness.std())


@pytest.mark.parametrize(("color", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_a_tint_lifts_its_own_channel(color: str, channel: int) -> None:
    shown = np.asarray(tint(sprite("panda", "flat"), color)).astype(float)
    means = shown[shown[..., 3] > 200][:, :3].mean(0)
    assert means.argmax() == channel


def test_the_object_covers_a_third_of_the_picture() -> None:
    thing = next(thing for thing in world.OBJECTS if thing.name == "soccer ball")
    facts = Facts(thing=thing, style="flat", place=world.PLAIN)
    picture = np.asarray(draw(facts, random.Random(0))).astype(int)
    changed = (np.abs(picture - picture[0, 0]).sum(-1) > 20).mean()
    assert changed > 0.25
