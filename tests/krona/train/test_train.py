"""Training: learns, repeats bit for bit, resumes bit for bit, and fails loudly."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from krona.adapter.inject import Adapter, inject
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.diffusion.prior import class_images
from krona.diffusion.sample import sample
from krona.errors import KronaError, NonFiniteLossError
from krona.storage.cache import Cache
from krona.subject.photos import Photos, load_photos
from krona.subject.subject import Subject, load_subject
from krona.train.config import TrainConfig
from krona.train.data import TrainData, prepare_data
from krona.train.loop import train
from krona.train.run import Record
from krona.train.schedule import learning_rate_at
from krona.train.state import TrainState, averaged

CONFIG = TrainConfig(
    adapter=AdapterConfig(factors=(4, 8)),
    steps=4,
    batch_size=2,
    report_every=2,
    num_fixed_pairs=4,
    learning_rate=1e-2,
)


@pytest.fixture
def subject(subject_dir: Path) -> Subject:
    return load_subject(str(subject_dir))


@pytest.fixture
def photos(subject: Subject) -> Photos:
    return load_photos(subject.photos_dir, resolution=16)


@contextmanager
def _injected(base: Base, config: TrainConfig) -> Iterator[Adapter]:
    adapter = inject(base.unet, config.adapter, seed=config.seed)
    try:
        yield adapter
    finally:
        adapter.eject()


def _run(
    base: Base, data: TrainData, config: TrainConfig
) -> tuple[dict[str, Tensor], list[Record]]:
    with _injected(base, config) as adapter:
        records = list(train(base, data, TrainState(adapter, config), config))
        return adapter.state_dict(), records


def _assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def _numbers(records: list[Record]) -> list[Record]:
    return [replace(record, step_s=0.0) for record in records]


@pytest.mark.parametrize("name", ["sd", "sd2", "sdxl"])
@pytest.mark.parametrize("kind", ["krona", "lora"])
def test_training_lowers_the_fixed_loss(
    request: pytest.FixtureRequest,
    subject: Subject,
    photos: Photos,
    cache: Cache,
    name: str,
    kind: Any,
) -> None:
    base: Base = request.getfixturevalue(name)
    config = replace(CONFIG, adapter=AdapterConfig(kind=kind, factors=(4, 8)), steps=12)
    data = prepare_data(base, subject, photos, config, cache)
    state, records = _run(base, data, config)
    assert [record.step for record in records] == [2, 4, 6, 8, 10, 12]
    assert records[-1].fixed_loss < records[0].fixed_loss
    assert all(torch.isfinite(value).all() for value in state.values())
    assert len(sample(base, subject.instance_prompts, steps=1)) == 2


def test_the_same_config_gives_the_same_adapter_whatever_ran_before(
    sd: Base, subject: Subject, photos: Photos, cache: Cache
) -> None:
    data = prepare_data(sd, subject, photos, CONFIG, cache)
    first, records = _run(sd, data, CONFIG)
    torch.manual_seed(99)
    _run(sd, data, replace(CONFIG, mixed_precision="bf16", seed=5, steps=1))
    again, records_again = _run(sd, data, CONFIG)
    _assert_equal(first, again)
    assert _numbers(records) == _numbers(records_again)
    other, _ = _run(sd, data, replace(CONFIG, seed=1))
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_resume_equals_an_uninterrupted_run(
    sd: Base, subject: Subject, photos: Photos, cache: Cache, tmp_path: Path, precision: Any
) -> None:
    config = replace(
        CONFIG,
        mixed_precision=precision,
        accumulation_steps=2,
        schedule="cosine",
        warmup_steps=1,
        ema_decay=0.5,
    )
    data = prepare_data(sd, subject, photos, config, cache)
    with _injected(sd, config) as adapter:
        state = TrainState(adapter, config)
        records = list(train(sd, data, state, config))
        whole, whole_average = adapter.state_dict(), state.average
    with _injected(sd, config) as adapter:
        state = TrainState(adapter, config)
        first = next(train(sd, data, state, config))
        state.save(tmp_path / "state.safetensors")
    with _injected(sd, replace(config, seed=3)) as adapter:
        state = TrainState.load(tmp_path / "state.safetensors", adapter, config)
        assert state.step == 2
        rest = list(train(sd, data, state, config))
        _assert_equal(adapter.state_dict(), whole)
        assert state.average is not None
        assert whole_average is not None
        assert torch.equal(state.average, whole_average)
    assert _numbers([first, *rest]) == _numbers(records)


def test_resume_refuses_other_settings_and_other_files(
    sd: Base, subject: Subject, photos: Photos, cache: Cache, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    with _injected(sd, CONFIG) as adapter:
        TrainState(adapter, CONFIG).save(path)
        TrainState.load(path, adapter, replace(CONFIG, report_every=1))
        with pytest.raises(KronaError, match=r"learning_rate=0\.01, not 0\.1"):
            TrainState.load(path, adapter, replace(CONFIG, learning_rate=0.1))
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(KronaError, match="damaged"):
            TrainState.load(path, adapter, CONFIG)


def test_a_step_is_adamw_on_the_clipped_gradient(
    sd: Base, subject: Subject, photos: Photos, cache: Cache
) -> None:
    """The first AdamW step is lr·g/(|g| + eps), plus decay: accumulated batches make one g."""
    config = replace(CONFIG, steps=1, weight_decay=0.1, max_grad_norm=1e-3, eps=1e-3)
    data = prepare_data(sd, subject, photos, config, cache)
    with _injected(sd, config) as adapter:
        before = adapter.state_dict()
        (record,) = train(sd, data, TrainState(adapter, config), config)
        for name, parameter in zip(before, adapter.parameters(), strict=True):
            assert parameter.grad is not None
            g = parameter.grad
            expected = before[name] * (1 - 1e-2 * 0.1) - 1e-2 * g / (g.abs() + 1e-3)
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-7)
        norm = torch.stack([p.grad.norm() for p in adapter.parameters() if p.grad is not None])
        assert norm.norm().item() == pytest.approx(1e-3, rel=1e-3)
        assert record.grad_norm > 1e-3


def test_the_average_by_hand(sd: Base, subject: Subject, photos: Photos, cache: Cache) -> None:
    config = replace(CONFIG, ema_decay=0.6, report_every=1)
    data = prepare_data(sd, subject, photos, config, cache)
    without, _ = _run(sd, data, replace(config, ema_decay=0.0))
    with _injected(sd, config) as adapter:
        state = TrainState(adapter, config)
        steps = [state.flat.detach().clone() for _ in train(sd, data, state, config)]
        latest = adapter.state_dict()
        mean_of_two = (steps[0] + steps[1]) / 2
        expected = (mean_of_two * 0.6 + steps[2] * 0.4) * 0.6 + steps[3] * 0.4
        assert state.average is not None
        torch.testing.assert_close(state.average, expected)
        with averaged([state]):
            held = torch.cat([value.flatten() for value in adapter.state_dict().values()])
            assert torch.equal(held, state.average)
        _assert_equal(adapter.state_dict(), latest)
        _assert_equal(latest, without)


def test_learning_rates_by_hand() -> None:
    config = replace(CONFIG, learning_rate=1.0, steps=6, warmup_steps=2)
    rates = [learning_rate_at(step, config) for step in range(6)]
    assert rates == [0.5, 1, 1, 1, 1, 1]
    cosine = replace(config, schedule="cosine")
    rates = [learning_rate_at(step, cosine) for step in range(6)]
    assert rates == pytest.approx([0.5, 1, 1, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_a_diverged_run_raises(sd: Base, subject: Subject, photos: Photos, cache: Cache) -> None:
    data = prepare_data(sd, subject, photos, CONFIG, cache)
    data.latents.mean[:] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"diverged before step 2.*learning_rate"):
        _run(sd, data, CONFIG)


def test_a_run_that_diverges_at_its_last_step_raises(
    sd: Base, subject: Subject, photos: Photos, cache: Cache
) -> None:
    data = prepare_data(sd, subject, photos, CONFIG, cache)
    with pytest.raises(NonFiniteLossError, match=r"diverged before step 1: .*fixed loss nan"):
        _run(sd, data, replace(CONFIG, steps=1, learning_rate=1e20))


def test_the_prior_is_made_once_and_pulls_on_the_adapter(
    sd: Base, subject: Subject, photos: Photos, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, prior_weight=1.0, num_class_images=2, min_snr_gamma=5.0, steps=1)
    monkeypatch.setattr("krona.diffusion.prior._NUM_STEPS", 2)
    data = prepare_data(sd, subject, photos, config, cache)
    assert data.class_latents is not None
    assert len(data.class_latents) == 2
    with_prior, _ = _run(sd, data, config)
    without, _ = _run(sd, data, replace(config, prior_weight=0.0))
    assert any(not torch.equal(with_prior[name], without[name]) for name in without)
    monkeypatch.setattr("krona.diffusion.prior.sample", None)
    class_images(sd, "a dog", num=2, resolution=16, cache=cache)


def test_photos_must_fit_the_run(sd: Base, subject: Subject, cache: Cache) -> None:
    photos = load_photos(subject.photos_dir, resolution=18)
    with pytest.raises(KronaError, match="18 px wide, but the run's resolution is 16 px"):
        prepare_data(sd, subject, photos, CONFIG, cache)
    with pytest.raises(KronaError, match=r"no multiple of 4 px.*; 16 is"):
        prepare_data(sd, subject, photos, replace(CONFIG, resolution=18), cache)


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"learning_rate": -1.0},
        {"eps": float("nan")},
        {"prior_weight": -1},
        {"ema_decay": 1.0},
        {"weight_decay": float("nan")},
        {"betas": (0.9, 1.0)},
        {"min_snr_gamma": -1.0},
        {"num_fixed_pairs": 0},
        {"num_class_images": 0},
        {"resolution": 0},
        {"schedule": "linear"},
        {"mixed_precision": "fp8"},
    ],
)
def test_wrong_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(KronaError, match=f"{next(iter(setting))}(=.*must be| '.*is unknown)"):
        replace(CONFIG, **setting)
