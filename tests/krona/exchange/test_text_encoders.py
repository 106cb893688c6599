"""Adapters in the text encoders too: learned, sampled, saved, packed and exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from trained import make_manifest, unchanged

from krona.adapter.inject import make_adapter
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.diffusion.encode import encode_prompts
from krona.diffusion.sample import sample, sample_each
from krona.errors import KronaError
from krona.exchange.adapter_file import save_adapter
from krona.exchange.attach import attach
from krona.exchange.export import export_adapter
from krona.exchange.formats.names import ExportFormat
from krona.planning.plan import PlanConfig, make_plan
from krona.storage.cache import Cache
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from krona.train.config import TrainConfig
from krona.train.data import TrainData, prepare_data
from krona.train.loop import advance, train
from krona.train.run import Run
from krona.train.state import TrainState

ADAPTER = AdapterConfig(factors=(4, 4), adapts_text=True)
CONFIG = TrainConfig(
    adapter=ADAPTER, steps=4, batch_size=2, report_every=4, num_fixed_pairs=2, learning_rate=5e-3
)
PROMPTS = ["a dog", "a red cat"]


@pytest.fixture(params=["sd", "sdxl"])
def base(request: pytest.FixtureRequest) -> Base:
    return request.getfixturevalue(request.param)


@pytest.fixture
def data(base: Base, subject_dir: Path, cache: Cache) -> TrainData:
    photos = load_photos(subject_dir, resolution=16)
    return prepare_data(base, load_subject(str(subject_dir)), photos, CONFIG, cache)


def make_run(base: Base, data: TrainData, config: TrainConfig) -> Run:
    adapter = make_adapter(base.network, config.adapter, seed=config.seed)
    return Run(data, TrainState(adapter, config), config)


def trained(base: Base, data: TrainData) -> Run:
    run = make_run(base, data, CONFIG)
    list(train(base, data, run.state, CONFIG))
    return run


def pixels(images: list) -> np.ndarray:
    return np.stack([np.asarray(image, np.int16) for image in images])


def test_every_layer_of_the_plan_learns(base: Base, data: TrainData) -> None:
    with unchanged(base):
        run = trained(base, data)
    adapter = run.state.adapter
    planned = make_plan(base.source, PlanConfig(adapter=ADAPTER))
    assert (len(adapter.layers), adapter.num_params) == (planned.num_layers, planned.num_params)
    in_text = {path: layer for path, layer in adapter.layers.items() if "text_encoder" in path}
    assert sum(p.numel() for x in in_text.values() for p in x.parameters() if p.requires_grad) == (
        planned.num_text_params
    )
    assert len({path.partition(".")[0] for path in in_text}) == len(base.text_encoders)
    moved = [path for path, layer in in_text.items() if bool(layer.B.any())]
    assert len(moved) >= len(in_text) - 4  # SDXL reads no last layer of the first encoder


def test_samples_ask_the_adapted_text_encoders(base: Base, data: TrainData, cache: Cache) -> None:
    plain = pixels(sample(base, PROMPTS, steps=2, cache=cache))
    adapter = trained(base, data).state.adapter
    for path, layer in adapter.layers.items():
        with torch.no_grad():
            if "text_encoder" in path:
                layer.B.add_(0.3)
            else:
                layer.B.zero_()
    (loose,) = sample_each(base, [adapter], PROMPTS, steps=2, cache=cache)
    adapter.inject()
    held = sample(base, PROMPTS, steps=2, cache=cache)
    adapter.eject()
    assert np.abs(pixels(loose) - plain).max() > 1
    assert np.abs(pixels(loose) - pixels(held)).max() <= 1
    assert np.abs(pixels(sample(base, PROMPTS, steps=2, cache=cache)) - plain).max() == 0


def test_an_adapted_encoder_neither_reads_nor_fills_the_cache(sd: Base, cache: Cache) -> None:
    plain = encode_prompts(sd, PROMPTS, cache).embeds
    adapter = make_adapter(sd.network, ADAPTER, seed=0)
    adapter.inject()
    for parameter in adapter.parameters():
        parameter.data.add_(0.1)
    adapted = encode_prompts(sd, PROMPTS, cache).embeds
    adapter.eject()
    assert not torch.equal(adapted, plain)
    assert torch.equal(encode_prompts(sd, PROMPTS, cache).embeds, plain)


def test_packed_equals_separate(base: Base, data: TrainData) -> None:
    configs = [CONFIG, replace(CONFIG, seed=1, adapter=replace(ADAPTER, factors=(2, 8)))]
    alone = [make_run(base, data, config) for config in configs]
    for run in alone:
        advance(base, [run])
    packed = [make_run(base, data, config) for config in configs]
    advance(base, packed)
    for one, other in zip(alone, packed, strict=True):
        error = (one.state.flat - other.state.flat).norm() / one.state.flat.norm()
        assert error <= 1e-4
    adapters = [run.state.adapter for run in packed]
    together = sample_each(base, adapters, PROMPTS, steps=2)
    for adapter, images in zip(adapters, together, strict=True):
        (apart,) = sample_each(base, [adapter], PROMPTS, steps=2)
        assert np.abs(pixels(images) - pixels(apart)).max() <= 1


def test_runs_with_and_without_are_not_mixed(sd: Base, subject_dir: Path, cache: Cache) -> None:
    photos = load_photos(subject_dir, resolution=16)
    data = prepare_data(sd, load_subject(str(subject_dir)), photos, CONFIG, cache)
    without = replace(CONFIG, adapter=replace(ADAPTER, adapts_text=False))
    with pytest.raises(KronaError, match="train them one by one"):
        advance(sd, [make_run(sd, data, CONFIG), make_run(sd, data, without)])


def test_the_plan_names_the_formats_that_hold_both(base: Base) -> None:
    planned = make_plan(base.source, PlanConfig(adapter=ADAPTER))
    refusing = {loader.format for loader in planned.loaders if not loader.does_load}
    assert {"diffusers", "peft"} <= refusing
    assert not {"kohya", "lora", "merged"} & refusing
    assert "lycoris" not in " ".join(loader.format for loader in planned.loaders)


@pytest.fixture
def saved(base: Base, data: TrainData, tmp_path: Path) -> Path:
    run = trained(base, data)
    path = tmp_path / "text.safetensors"
    save_adapter(path, run.state.adapter.state_dict(), make_manifest(base, ADAPTER))
    return path


def test_a_file_brings_both_back(base: Base, saved: Path) -> None:
    with unchanged(base):
        adapter = attach(base, saved)
        assert adapter.adapts_text
        adapter.eject()


@pytest.mark.parametrize("format", ["kohya", "lora", "merged", "merged-file"])
def test_exports_load_back(base: Base, saved: Path, tmp_path: Path, format: ExportFormat) -> None:
    name = "out" if format == "merged" else "out.safetensors"
    with unchanged(base):
        report = export_adapter(
            saved, base=base, format=format, output=tmp_path / "e" / name, dtype="fp32"
        )
    assert report.rel_error < 1e-4
    assert report.loaded_by.split()[0] in {"diffusers", "lycoris_lora"}


def test_kohyas_names_are_those_of_sd_scripts(saved: Path, base: Base, tmp_path: Path) -> None:
    output = tmp_path / "e" / "out.safetensors"
    export_adapter(saved, base=base, format="kohya", output=output)
    names = {key.partition(".")[0] for key in load_file(output)}
    prefixes = ("lora_te_",) if base.family == "sd" else ("lora_te1_", "lora_te2_")
    for prefix in prefixes:
        assert f"{prefix}text_model_encoder_layers_1_self_attn_out_proj" in names
    assert all(name.startswith(("lora_unet_", *prefixes)) for name in names)


def test_kohyas_file_brings_both_back(saved: Path, base: Base, tmp_path: Path) -> None:
    output = tmp_path / "e" / "out.safetensors"
    export_adapter(saved, base=base, format="kohya", output=output, dtype="fp32")
    deltas = []
    for path in (saved, output):
        with unchanged(base):
            adapter = attach(base, path)
            deltas.append({path: layer.delta() for path, layer in adapter.layers.items()})
            adapter.eject()
    assert deltas[0].keys() == deltas[1].keys()
    for path, delta in deltas[0].items():
        torch.testing.assert_close(deltas[1][path], delta)


def test_lycoris_layers_of_an_mlp_are_read(base: Base, tmp_path: Path) -> None:
    prefix = "lora_te_" if base.family == "sd" else "lora_te2_"
    name = f"{prefix}text_model_encoder_layers_0_mlp_fc1"
    (mlp,) = (m for n, m in base.text_encoders[-1].named_modules() if n.endswith("layers.0.mlp"))
    A, B = torch.randn(2, 2), torch.randn(mlp.fc1.out_features // 2, mlp.fc1.in_features // 2)
    path = tmp_path / "mlp.safetensors"
    save_file({f"{name}.lokr_w1": A, f"{name}.lokr_w2": B, f"{name}.alpha": torch.ones(())}, path)
    x = torch.randn(3, mlp.fc1.in_features)
    expected = mlp.fc1(x) + x @ torch.kron(A, B).T
    with unchanged(base):
        adapter = attach(base, path)
        torch.testing.assert_close(mlp.fc1(x), expected)
        adapter.eject()


@pytest.mark.parametrize("format", ["peft", "diffusers", "lycoris"])
def test_formats_of_a_unet_alone_refuse(
    base: Base, saved: Path, tmp_path: Path, format: ExportFormat
) -> None:
    name = "out" if format == "peft" else "out.safetensors"
    with pytest.raises(KronaError, match="text encoders; kohya, lora"):
        export_adapter(saved, base=base, format=format, output=tmp_path / "e" / name)
    assert not (tmp_path / "e").exists()


def test_sampling_an_adapter_of_each_kind(sd: Base) -> None:
    adapters = [
        make_adapter(sd.network, replace(ADAPTER, adapts_text=text), seed=0)
        for text in (True, False)
    ]
    together = sample_each(sd, adapters, PROMPTS, steps=2)
    assert np.abs(pixels(together[0]) - pixels(together[1])).max() <= 1
