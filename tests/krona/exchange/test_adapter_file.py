import json
import pickle
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from krona.adapter.layers import AdapterConfig
from krona.errors import KronaError
from krona.exchange.adapter_file import METADATA_KEY, Manifest, load_adapter, save_adapter


def make_manifest(**changes):
    values = {
        "config": AdapterConfig(factors=(4, 2), targets=("q", "v"), scale=0.5),
        "base_model": "toyland",
        "base_hash": "abc",
        "family": "sd",
        "prediction_type": "epsilon",
        "subject": "duck",
        "class_noun": "toy",
        "identifier": "sks",
        "prompts": ("a {} on the beach", "a {} – in snow"),
        "steps": 100,
        "seed": 3,
        "learning_rate": 5e-4,
    }
    return Manifest(**values | changes)


def make_state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = ("mid.attn1.to_q", "mid.attn1.to_v")
    return {
        f"{layer}.{name}": torch.randn(4, 2, generator=generator)
        for layer in layers
        for name in ("A", "B")
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "runs" / "adapter.safetensors"
    save_adapter(path, make_state(), make_manifest())
    return path


def test_round_trip_keeps_tensors_and_manifest(saved):
    state, manifest = load_adapter(saved)
    assert manifest == make_manifest()
    assert manifest.kind == "krona"
    assert set(manifest.versions) == {"krona-search", "torch", "diffusers", "transformers"}
    assert state.keys() == make_state().keys()
    assert all(torch.equal(state[name], value) for name, value in make_state().items())
    assert [path.name for path in saved.parent.iterdir()] == ["adapter.safetensors"]


def test_transposed_tensors_are_saved_by_value(tmp_path):
    state = {"to_q.A": torch.arange(6.0).view(2, 3).T, "to_q.B": torch.ones(1, 2).T}
    save_adapter(tmp_path / "a.safetensors", state, make_manifest())
    assert torch.equal(load_adapter(tmp_path / "a.safetensors")[0]["to_q.A"], state["to_q.A"])


def test_failed_write_keeps_the_old_file_and_leaves_no_other(saved, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        save_adapter(saved, make_state(seed=1), make_manifest(seed=1))
    assert load_adapter(saved)[1].seed == 3
    assert len(list(saved.parent.iterdir())) == 1


def test_concurrent_writers_leave_one_whole_file(saved):
    threads = [
        threading.Thread(target=save_adapter, args=(saved, make_state(i), make_manifest(seed=i)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state, manifest = load_adapter(saved)
    assert torch.equal(state["mid.attn1.to_q.A"], make_state(manifest.seed)["mid.attn1.to_q.A"])
    assert len(list(saved.parent.iterdir())) == 1


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(KronaError, match="there is no file"):
        load_adapter(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, -8])
def test_truncated_file_is_refused(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(KronaError, match="damaged, truncated or not a safetensors file"):
        load_adapter(saved)


@pytest.mark.parametrize(
    "dump", [torch.save, lambda value, path: pickle.dump(value, path.open("wb"))]
)
def test_pickle_is_refused_and_not_run(tmp_path, dump):
    path, trace = tmp_path / "adapter.safetensors", tmp_path / "ran"
    dump({"run": Touch(str(trace))}, path)
    with pytest.raises(KronaError, match="is a pickle"):
        load_adapter(path)
    assert not trace.exists()


class Touch:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_foreign_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_mid.alpha": torch.ones(1)}, path, {"ss_network_dim": "4"})
    with pytest.raises(KronaError, match=r"no krona adapter: .* holds lora_unet_mid\.alpha"):
        load_adapter(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-5], "manifest is damaged"),
        (lambda text: "[]", "manifest is damaged"),
        (lambda text: json.dumps(json.loads(text) | {"extra": 1}), "manifest is damaged .*'extra'"),
        (lambda text: json.dumps({"format_version": 1}), "manifest is damaged"),
        (lambda text: json.dumps(json.loads(text) | {"base_hash": 5}), "base_hash holds 5, which"),
        (lambda text: json.dumps(json.loads(text) | {"prompts": [1]}), "prompts holds 1, which"),
        (lambda text: json.dumps(json.loads(text) | {"config": [1]}), "manifest is damaged"),
        (lambda text: json.dumps(json.loads(text) | {"format_version": 2}), "version 2 is newer"),
        (lambda text: text.replace('"krona"', '"krono"'), "kind 'krono' is unknown"),
    ],
)
def test_damaged_manifest_is_refused(saved, damage, message):
    text = damage(make_manifest().to_json())
    save_file(load_file(saved), saved, {METADATA_KEY: text})
    with pytest.raises(KronaError, match=message):
        load_adapter(saved)


@pytest.mark.parametrize("change", [{"mid.attn1.to_q.A": None}, {"mid.attn1.to_k.up": 1}])
def test_half_a_pair_is_refused(saved, change):
    state = {k: v for k, v in make_state().items() if k not in change}
    state |= {k: torch.ones(1, 1) for k, v in change.items() if v}
    save_adapter(saved, state, make_manifest())
    with pytest.raises(KronaError, match="does not hold whole A and B pairs"):
        load_adapter(saved)


def test_empty_adapter_is_refused(saved):
    save_adapter(saved, {}, make_manifest())
    with pytest.raises(KronaError, match="no tensors"):
        load_adapter(saved)
