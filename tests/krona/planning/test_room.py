"""Room: factors that divide the layers, no larger than asked, and within the memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from krona.adapter.inject import attention_linears
from krona.adapter.kron import num_kron_params
from krona.adapter.layers import AdapterConfig, Factors
from krona.base.checkpoint import NOTHING_SAVED, Savings, load_base
from krona.base.skeleton import build_skeleton
from krona.errors import KronaError, nearest_pair
from krona.planning.budget import fit_sampling
from krona.planning.dry_step import dry_sample
from krona.planning.plan import PlanConfig, make_plan, num_bytes
from krona.planning.room import make_room

PLAN = PlanConfig(adapter=AdapterConfig(), batch_size=1)
FITTING = replace(PLAN, adapter=AdapterConfig(factors=(8, 4)))
ALL_SAVED = Savings(offloads_vae=True, offloads_text=True, has_checkpointing=True)
OFFLOADED = replace(ALL_SAVED, has_checkpointing=False)


def test_by_default_an_adapter_is_at_most_as_large_as_a_lora_of_rank_64() -> None:
    found = make_room("sdxl", PLAN, None).factors
    sizes = {pair: 560 * pair[0] * pair[1] + 955_187_200 // (pair[0] * pair[1]) for pair in found}
    assert max(sizes.values()) <= 16 * 5_806_080  # the published count for rank 4
    assert {(1, 1), (8, 1), (5, 2)}.isdisjoint(found)  # 955, 119 and 96 million
    assert {(4, 64), (64, 8), (640, 1), (16, 1)} <= set(found)
    assert list(found) == sorted(found, key=lambda pair: (pair[0] * pair[1], pair[0]))


def test_more_or_less_is_searched_where_it_is_asked_for() -> None:
    assert (1, 1) in make_room("sdxl", PLAN, None, max_params=955_187_760).factors
    assert make_room("sdxl", PLAN, None, factors=((4, 64), (1, 1))).factors == ((1, 1), (4, 64))
    small = make_room("sdxl", PLAN, None, max_params=1_463_040).factors
    assert {a1 * a2 for a1, a2 in small} == {1280}
    both = {"factors": ((1, 1), (4, 64)), "max_params": 10**7}
    assert make_room("sdxl", PLAN, None, **both).factors == ((4, 64),)


def test_what_cannot_be_searched_is_refused_with_what_can() -> None:
    with pytest.raises(KronaError, match=r"\(3, 64\) do not divide .*nearest that do: \(4, 64\)"):
        make_room("sdxl", PLAN, None, factors=((3, 64),))
    with pytest.raises(KronaError, match=r"max_params=9 leaves no .*\(10, 128\), has 1,463,040"):
        make_room("sdxl", PLAN, None, max_params=9)


def test_nearest_pair_measures_in_factors_of_two() -> None:
    assert nearest_pair((4, 64), [(4, 16), (8, 32), (4, 32)]) == (4, 32)


def _needed(base: str, pair: Factors, savings: Savings) -> int:
    config = replace(
        PLAN,
        adapter=AdapterConfig(factors=pair),
        keeps_encoders=not savings.offloads_vae,
        has_checkpointing=savings.has_checkpointing,
    )
    return make_plan(base, config).memory.total


def test_what_does_not_fit_is_left_out_and_the_largest_that_remains_is_planned_for(
    tiny_sd: Path,
) -> None:
    base = str(tiny_sd)
    pairs = ((1, 1), (1, 2), (8, 4))
    enough = _needed(base, (1, 1), NOTHING_SAVED)
    room = make_room(base, PLAN, enough, factors=pairs)
    assert (room.factors, room.savings) == (pairs, NOTHING_SAVED)
    room = make_room(base, PLAN, enough - 1, factors=pairs)
    assert (room.factors, room.savings) == (pairs, OFFLOADED)
    linears = attention_linears(load_base(base).unet).values()
    one, two = (
        sum(num_kron_params((x.out_features, x.in_features), *pair) for x in linears)
        for pair in pairs[:2]
    )
    for_two = _needed(base, (1, 1), ALL_SAVED) - PLAN.bytes_per_param * (one - two)
    with pytest.warns(UserWarning, match=rf"factor pairs are not searched: .* than {two:,} param"):
        room = make_room(base, PLAN, for_two, max_params=one)
    assert room.savings == ALL_SAVED
    assert (1, 1) not in room.factors
    assert {(1, 2), (8, 4)} <= set(room.factors)
    with (
        pytest.warns(UserWarning, match="1 of 3 factor pairs"),
        pytest.raises(KronaError, match=rf"\(1, 1\) have {one:,} .*nearest that fit: \(1, 2\)"),
    ):
        make_room(base, PLAN, for_two, factors=pairs)


def test_an_adapter_takes_its_moments_and_its_average(tiny_sd: Path) -> None:
    plans = [make_plan(str(tiny_sd), replace(FITTING, keeps_average=k)) for k in (True, False)]
    assert [plan.memory.adapter // plan.num_params for plan in plans] == [20, 16]


def test_sampling_gives_up_no_more_than_the_budget_asks_for(tiny_sdxl: Path) -> None:
    base = str(tiny_sdxl)
    loaded = load_base(tiny_sdxl)
    with FakeTensorMode():
        row, decoding = dry_sample(build_skeleton(base), resolution=loaded.resolution)
    unet, vae = num_bytes(loaded.unet), num_bytes(loaded.vae)
    all_parts = unet + vae + sum(map(num_bytes, loaded.text_encoders))

    def fit(budget: int | None, **options: Any) -> tuple[Savings, int | None]:
        return fit_sampling(base, budget, precision="fp32", batch_size=4, **options)

    assert fit(None) == (NOTHING_SAVED, 4)
    assert fit(all_parts + 8 * row) == (NOTHING_SAVED, 4)
    assert fit(all_parts + 8 * row - 1) == (OFFLOADED, 4)
    assert fit(unet + 8 * row - 1) == (OFFLOADED, 3)
    assert fit(unet + 4 * row, is_guided=False) == (OFFLOADED, 4)
    assert decoding + vae < 2 * row
    with pytest.warns(UserWarning, match=r"needs 0\.02 GiB, encoders offloaded, but 0\.02 GiB"):
        assert fit(unet + 2 * row - 1) == (OFFLOADED, 1)
