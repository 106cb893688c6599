"""A pack: equal to separate runs, deaf to its neighbours, and undone where it fails."""

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from krona.adapter.inject import Adapter, attention_linears, inject, make_adapter
from krona.adapter.layers import AdapterConfig, PublishedKronLinear
from krona.adapter.pack import Pack
from krona.base.checkpoint import Base
from krona.errors import KronaError, NonFiniteLossError
from krona.storage.cache import Cache
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from krona.train import loop, pack_size
from krona.train.config import TrainConfig
from krona.train.data import TrainData, prepare_data
from krona.train.loop import advance
from krona.train.pack_size import best_pack_size
from krona.train.run import Record, Run
from krona.train.state import TrainState

CONFIG = TrainConfig(
    adapter=AdapterConfig(factors=(4, 8)),
    steps=20,
    batch_size=2,
    report_every=10,
    num_fixed_pairs=4,
    learning_rate=2e-3,
)
MIXED = (
    CONFIG,
    replace(CONFIG, seed=1, learning_rate=1e-3, schedule="cosine", warmup_steps=2),
    replace(CONFIG, seed=2, adapter=AdapterConfig(factors=(8, 2), targets=("q", "v"))),
    replace(CONFIG, seed=3, adapter=AdapterConfig(kind="lora", rank=2), max_grad_norm=0.01),
    replace(CONFIG, seed=4, adapter=AdapterConfig(kind="lora", rank=2, targets=("k", "o"))),
    replace(CONFIG, seed=5, adapter=AdapterConfig(factors=(2, 16)), batch_size=3),
)
# with as many rows each, the weights of narrow layers are formed; else every product is factored
FORMED, FACTORED = MIXED[:-1], MIXED
both_ways = pytest.mark.parametrize("configs", [FORMED, FACTORED], ids=["formed", "factored"])
Prepare = Callable[[Base, TrainConfig], TrainData]


@pytest.fixture
def prepare(subject_dir: Path, cache: Cache) -> Prepare:
    subject = load_subject(str(subject_dir))
    photos = load_photos(subject.photos_dir, resolution=16)
    return lambda base, config: prepare_data(base, subject, photos, config, cache)


def make_run(base: Base, data: TrainData, config: TrainConfig) -> Run:
    adapter = make_adapter(base.unet, config.adapter, seed=config.seed)
    return Run(data, TrainState(adapter, config), config)


def finish(base: Base, runs: list[Run]) -> list[dict[str, Tensor]]:
    while open_runs := [run for run in runs if not run.is_done]:
        advance(base, open_runs)
    return [run.state.adapter.state_dict() for run in runs]


def assert_near(got: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    one, other = (torch.cat([s[name].flatten() for name in expected]) for s in (got, expected))
    error = float((one - other).norm() / other.norm())
    print(f"relative difference of all factors: {error:.2g}")
    assert error <= limit


@both_ways
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_packed_equals_separate_over_twenty_steps(
    request: pytest.FixtureRequest, prepare: Prepare, name: str, configs: tuple[TrainConfig, ...]
) -> None:
    base: Base = request.getfixturevalue(name)
    data = prepare(base, CONFIG)
    alone = [finish(base, [make_run(base, data, config)])[0] for config in configs]
    packed = finish(base, [make_run(base, data, config) for config in configs])
    for one, other in zip(alone, packed, strict=True):
        assert_near(other, one, 1e-4)


@both_ways
def test_packed_equals_separate_in_double_precision(
    sd: Base, prepare: Prepare, configs: tuple[TrainConfig, ...]
) -> None:
    base = replace(sd, unet=copy.deepcopy(sd.unet).double(), dtype=torch.float64)
    data = prepare(base, CONFIG)

    def run(config: TrainConfig) -> Run:
        adapter = make_adapter(base.unet, config.adapter, seed=config.seed)
        for parameter in adapter.parameters():
            parameter.data = parameter.data.double()
        return Run(data, TrainState(adapter, config), config)

    alone = [finish(base, [run(config)])[0] for config in configs]
    packed = finish(base, [run(config) for config in configs])
    for one, other in zip(alone, packed, strict=True):
        assert_near(other, one, 1e-12)


def test_records_come_at_each_runs_own_steps(sd: Base, prepare: Prepare) -> None:
    data = prepare(sd, CONFIG)
    often = make_run(sd, data, replace(CONFIG, report_every=4, steps=6))
    seldom = make_run(sd, data, CONFIG)
    steps = []
    while not often.is_done:
        outcomes = advance(sd, [often, seldom])
        steps.append([getattr(outcome, "step", None) for outcome in outcomes])
    assert steps == [[4, None], [6, None]]
    (last,) = advance(sd, [seldom])
    assert getattr(last, "step", None) == 10
    (alone,) = advance(sd, [make_run(sd, data, CONFIG)])
    for name in ("train_loss", "fixed_loss", "grad_norm"):
        assert getattr(last, name) == pytest.approx(getattr(alone, name), rel=1e-4)


@both_ways
def test_a_nan_in_one_run_leaves_the_others_bit_identical(
    sd: Base, prepare: Prepare, configs: tuple[TrainConfig, ...]
) -> None:
    data = prepare(sd, CONFIG)
    bad = replace(data.latents, mean=torch.full_like(data.latents.mean, float("nan")))
    outcomes: dict[bool, Any] = {}
    states: dict[bool, list[dict[str, Tensor]]] = {}
    for is_bad in (False, True):
        runs = [make_run(sd, data, config) for config in configs]
        if is_bad:
            runs[1].data = replace(data, latents=bad)
        outcomes[is_bad] = advance(sd, runs)
        states[is_bad] = [run.state.adapter.state_dict() for run in runs]
    assert isinstance(outcomes[True][1], NonFiniteLossError)
    for i in set(range(len(configs))) - {1}:
        assert outcomes[True][i].fixed_loss == outcomes[False][i].fixed_loss
        good, beside_bad = states[False][i], states[True][i]
        assert all(torch.equal(good[name], beside_bad[name]) for name in good)


@pytest.mark.parametrize("num_before", [0, 1, 10], ids=["first", "second", "fixed pairs"])
def test_a_failed_pack_keeps_the_steps_that_it_made_and_goes_on(
    sd: Base, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, num_before: int
) -> None:
    data = prepare(sd, CONFIG)
    linears = attention_linears(sd.unet)
    uncut = [make_run(sd, data, config) for config in MIXED[:2]]
    cut = [make_run(sd, data, config) for config in MIXED[:2]]
    expected = [advance(sd, uncut) for _ in range(2)]
    calls = iter(range(100))
    forward = sd.unet.forward

    def fail_once(*args: Any, **options: Any) -> Any:
        if next(calls) == num_before:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*args, **options)

    monkeypatch.setattr(sd.unet, "forward", fail_once)
    with pytest.raises(torch.OutOfMemoryError):
        advance(sd, cut)
    assert [run.state.step for run in cut] == [num_before] * 2
    assert attention_linears(sd.unet) == linears
    for outcomes in expected:
        for outcome, told in zip(advance(sd, cut), outcomes, strict=True):
            assert isinstance(outcome, Record)
            assert isinstance(told, Record)
            numbers = [asdict(replace(record, step_s=0.0)) for record in (outcome, told)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)  # sums in another order
    assert all(run.is_done for run in cut)
    for one, other in zip(uncut, cut, strict=True):
        assert torch.equal(one.state.flat, other.state.flat)


def test_a_run_that_owes_its_last_record_is_not_done(
    sd: Base, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(sd, prepare(sd, CONFIG), replace(CONFIG, steps=1))
    losses = loop.batch_losses

    def fail_on_fixed_pairs(*args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            raise RuntimeError("the device is gone")
        return losses(*args, **options)

    monkeypatch.setattr(loop, "batch_losses", fail_on_fixed_pairs)
    with pytest.raises(RuntimeError, match="gone"):
        advance(sd, [run])
    monkeypatch.setattr(loop, "batch_losses", losses)
    assert (run.state.step, run.is_done) == (1, False)
    (record,) = advance(sd, [run])
    assert isinstance(record, Record)
    assert (record.step, run.is_done) == (1, True)


def test_the_pack_doubles_while_that_is_faster_and_fits(
    sd: Base, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepare(sd, CONFIG)
    speeds = {1: 1.0, 2: 1.5, 4: 2.0, 8: 2.1}
    monkeypatch.setattr(pack_size, "_speed", lambda base, data, config, size: speeds[size])
    assert best_pack_size(sd, data, CONFIG, most=8) == 4
    assert best_pack_size(sd, data, CONFIG, most=3) == 2

    def short_of_memory(base: Any, data: Any, config: Any, size: int) -> float:
        if size > 2:
            raise torch.OutOfMemoryError("out of memory")
        return speeds[size]

    monkeypatch.setattr(pack_size, "_speed", short_of_memory)
    assert best_pack_size(sd, data, CONFIG, most=8) == 2


def test_measuring_a_pack_leaves_the_base_as_it_was(sd: Base, prepare: Prepare) -> None:
    linears = attention_linears(sd.unet)
    assert best_pack_size(sd, prepare(sd, CONFIG), CONFIG, most=2) in (1, 2)
    assert attention_linears(sd.unet) == linears


def test_a_pack_takes_no_other_adapters_place(sd: Base) -> None:
    free = [make_adapter(sd.unet, CONFIG.adapter, seed=seed) for seed in (0, 1)]
    injected = inject(sd.unet, CONFIG.adapter, seed=2)
    with pytest.raises(KronaError, match="already injected in this UNet"):
        Pack(sd.unet, free)
    injected.eject()
    layers = {
        path: PublishedKronLinear(linear, torch.ones(1, 1), torch.zeros_like(linear.weight))
        for path, linear in attention_linears(sd.unet).items()
    }
    published = Adapter(sd.unet, dict(layers), is_injected=False)
    with pytest.raises(KronaError, match="published code shares no batch"):
        Pack(sd.unet, [published, *free])


def test_runs_that_cannot_share_a_pass_are_refused(sd: Base, prepare: Prepare) -> None:
    data = prepare(sd, CONFIG)
    one = make_run(sd, data, CONFIG)
    other = make_run(sd, data, replace(CONFIG, accumulation_steps=2))
    with pytest.raises(KronaError, match="accumulation_steps=1 and 2 cannot be trained together"):
        advance(sd, [one, other])
    larger = make_run(sd, replace(data, resolution=32), CONFIG)
    with pytest.raises(KronaError, match="16 and 32 px cannot be trained together"):
        advance(sd, [one, larger])
