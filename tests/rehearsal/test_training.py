"""Training on a device that is not the CPU: the CPU's numbers, nothing waited for, nothing lost."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from device import NAME, limited, memory, waits
from twins import ON_CUDA, MakeRun, Twins, learned

from krona.adapter.layers import AdapterConfig
from krona.adapter.pack import Pack
from krona.base.checkpoint import Base, Savings, load_base
from krona.errors import DoesNotFitError
from krona.train.loop import _step, advance
from krona.train.run import Record, Run
from krona.train.state import TrainState, averaged

MIXED: tuple[dict[str, Any], ...] = (
    {},
    {"seed": 1},
    {"seed": 2, "adapter": AdapterConfig(kind="lora")},
)


@dataclass(frozen=True)
class Short:
    base: Base
    done: Run
    needed_bytes: int


def assert_same(one: Run, other: Run) -> None:
    """Both have learned the same, up to rounding."""
    torch.testing.assert_close(learned(one), learned(other), rtol=1e-3, atol=1e-5)


def numbers(outcome: Any) -> dict[str, float]:
    assert isinstance(outcome, Record)
    return asdict(replace(outcome, step_s=0.0))


@pytest.mark.parametrize("num_runs", [1, 3], ids=["alone", "in a pack"])
def test_a_run_gives_the_cpus_numbers(twins: Twins, make_run: MakeRun, num_runs: int) -> None:
    prior = {"prior_weight": 0.5, "num_class_images": 2}
    here, there = (
        [make_run(base, **prior, **changes) for changes in MIXED[:num_runs]]
        for base in (twins.here, twins.there)  # in turn, as class images go to the cache
    )
    assert there[0].state.flat.device.type == twins.there.device.type != "cpu"
    for got, expected in zip(advance(twins.there, there), advance(twins.here, here), strict=True):
        assert numbers(got) == pytest.approx(numbers(expected), rel=1e-4)
    for got_run, expected_run in zip(there, here, strict=True):
        assert_same(got_run, expected_run)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulation_steps": 2},
        {"mixed_precision": "fp16"},
        {"adapter": AdapterConfig(factors=(4, 8), adapts_text=True)},
    ],
    ids=["plain", "accumulated", "with a scaled loss", "with text"],
)
def test_the_host_waits_at_reports_and_never_in_a_step(
    tiny_sdxl: Path, make_run: MakeRun, changes: dict[str, Any]
) -> None:
    base = load_base(tiny_sdxl, device=NAME)
    noted = []
    for steps in (1, 2):
        run = make_run(base, **changes | {"steps": steps, "report_every": steps})
        with waits() as found:
            advance(base, [run])
            noted.append(list(found))
    assert noted[0] == noted[1]
    assert len(noted[0]) == 2, noted[0]


@pytest.mark.parametrize(
    "mixed_precision", [pytest.param(p, marks=ON_CUDA) for p in ("no", "fp16")]
)
def test_cuda_says_itself_that_no_step_synchronises(
    tiny_sdxl: Path, make_run: MakeRun, mixed_precision: str
) -> None:
    base = load_base(tiny_sdxl, device="cuda")
    run = make_run(base, steps=4, report_every=4, mixed_precision=mixed_precision)
    with Pack(base.network, [run.state.adapter]) as pack:
        _step(base, [run], pack)  # the first one measures kernels
        torch.cuda.set_sync_debug_mode("error")
        try:
            _step(base, [run], pack)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert run.state.step == 2


def test_a_state_saved_there_goes_on_there_and_here(
    tiny_sd: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    there, path = load_base(tiny_sd, device=NAME), tmp_path / "state.safetensors"
    uncut = make_run(there, steps=2)
    advance(there, [uncut])
    uncut.state.save(path)
    advance(there, [uncut])
    for base in (there, load_base(tiny_sd)):
        fresh = make_run(base, steps=2)
        state = TrainState.load(path, fresh.state.adapter, fresh.config)
        resumed = Run(fresh.data, state, fresh.config)
        advance(base, [resumed])
        assert_same(resumed, uncut)
        with averaged([state, uncut.state]):
            assert_same(resumed, uncut)


def test_savings_change_nothing_and_encoders_wait_in_main_memory(
    tiny_sdxl: Path, make_run: MakeRun
) -> None:
    savings = Savings(offloads_vae=True, offloads_text=True, has_checkpointing=True)
    plain, saving = (
        load_base(tiny_sdxl, device=NAME),
        load_base(tiny_sdxl, device=NAME, savings=savings),
    )
    runs = [make_run(base) for base in (plain, saving)]
    for base, run in zip((plain, saving), runs, strict=True):
        advance(base, [run])
    assert torch.equal(*map(learned, runs))
    assert {m.device.type for m in (saving.vae, *saving.text_encoders)} == {"cpu"}


@pytest.fixture
def short(tiny_sd: Path, make_run: MakeRun) -> Short:
    """A base whose memory is to run short, a run that went through, and what it needed."""
    base = load_base(tiny_sd, device=NAME)
    run = make_run(base)
    before = memory.peak_bytes = memory.used_bytes
    advance(base, [run])
    return Short(base=base, done=run, needed_bytes=memory.peak_bytes - before)


@pytest.mark.filterwarnings("ignore:memory is short")
@pytest.mark.parametrize(("frac", "num_parts"), [(0.95, 1), (0.6, 2)])
def test_a_run_that_is_short_of_memory_shrinks_and_learns_the_same(
    short: Short, make_run: MakeRun, frac: float, num_parts: int
) -> None:
    run = make_run(short.base)
    with limited(int(frac * short.needed_bytes)):
        advance(short.base, [run])
    assert_same(run, short.done)
    assert run.num_parts == num_parts
    assert not short.base.offload()


@pytest.mark.filterwarnings("ignore:memory is short")
def test_a_run_that_cannot_fit_says_so_and_goes_on_where_there_is_room(
    short: Short, make_run: MakeRun
) -> None:
    run, used_bytes = make_run(short.base), memory.used_bytes
    short.base.offload()
    with limited(10_000), pytest.raises(DoesNotFitError, match="into the memory of rehearsal"):
        advance(short.base, [run])
    assert memory.used_bytes <= used_bytes
    assert (run.state.step, short.base.unet.is_gradient_checkpointing) == (0, True)
    advance(short.base, [run])
    assert_same(run, short.done)


def test_a_pack_that_does_not_fit_is_left_as_it_was(short: Short, make_run: MakeRun) -> None:
    runs = [make_run(short.base, seed=i) for i in range(3)]
    with limited(2 * short.needed_bytes):
        with pytest.raises(torch.OutOfMemoryError):
            advance(short.base, runs)
        assert [run.state.step for run in runs] == [0] * 3
        advance(short.base, runs[:1])
    assert_same(runs[0], short.done)
