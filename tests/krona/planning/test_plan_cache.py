"""A plan is made once on a machine: what it is found by, and what has it made anew."""

import json
import shutil
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from krona.adapter.layers import AdapterConfig
from krona.base.source import BaseSource
from krona.planning import plan, plan_cache
from krona.planning.plan import Plan, PlanConfig, make_plan
from krona.storage.remembered import remembered

PLAN = PlanConfig(adapter=AdapterConfig(factors=(8, 4)), batch_size=1)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The bases that were traced, in an empty cache."""
    monkeypatch.setenv("KRONA_CACHE", str(tmp_path / "cache"))
    names: list[str] = []
    trace = plan._trace

    def counted(base: BaseSource, config: PlanConfig) -> Plan:
        names.append(base.name)
        return trace(base, config)

    monkeypatch.setattr(plan, "_trace", counted)
    return names


def test_the_second_plan_is_the_first_read_back(traced: list[str], tiny_sd: Path) -> None:
    made = make_plan(str(tiny_sd), PLAN)
    assert make_plan(str(tiny_sd), PLAN) == made
    assert len(traced) == 1
    assert made.loaders[0].does_load
    assert made.memory.total > 0


def test_checkpoints_of_one_shape_share_a_plan_under_their_own_names(
    traced: list[str], tiny_sd: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sd, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    plans = [make_plan(str(base), PLAN) for base in (tiny_sd, copy)]
    assert [made.base for made in plans] == [str(tiny_sd), str(copy)]
    assert replace(plans[1], base=plans[0].base) == plans[0]
    assert len(traced) == 1


def test_other_settings_configs_or_code_are_planned_anew(
    traced: list[str], tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan(str(tiny_sd), PLAN)
    make_plan(str(tiny_sd), replace(PLAN, batch_size=2))
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sd, copy)
    path = copy / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 16}))
    assert make_plan(str(copy), PLAN).resolution == 32
    monkeypatch.setattr(plan_cache, "_code", lambda: "other")
    make_plan(str(tiny_sd), PLAN)
    assert len(traced) == 4


def test_who_asks_at_once_waits_for_the_first(tmp_path: Path) -> None:
    at_once, computed = Barrier(4), []

    def ask(number: int) -> dict[str, Any]:
        at_once.wait()
        return remembered(tmp_path, {"of": 1}, lambda: computed.append(number) or {"by": number})  # type: ignore[func-returns-value]

    with ThreadPool(4) as pool:
        values = pool.map(ask, range(4), chunksize=1)
    assert len(computed) == 1
    assert values == [{"by": computed[0]}] * 4


def test_a_damaged_entry_is_computed_anew_and_a_closed_folder_keeps_none(tmp_path: Path) -> None:
    remembered(tmp_path, {"of": 1}, lambda: {"by": 1})
    (entry,) = tmp_path.glob("*.json")
    entry.write_text("{")
    assert remembered(tmp_path, {"of": 1}, lambda: {"by": 2}) == {"by": 2}
    assert remembered(tmp_path, {"of": 1}, lambda: {"by": 3}) == {"by": 2}
    closed = tmp_path / "file"
    closed.write_text("")
    assert remembered(closed, {"of": 1}, lambda: {"by": 4}) == {"by": 4}
