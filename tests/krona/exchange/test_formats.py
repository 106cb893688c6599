"""Each export, put on a base by the tool it is for: equal weights, equal images."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lycoris import create_lycoris_from_weights
from original_naming import original_state
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trained import assert_close, draw, make_manifest, place, predict, unchanged

from krona.adapter.inject import inject
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base, load_base
from krona.base.source import BaseSource
from krona.exchange.adapter_file import save_adapter
from krona.exchange.attach import attach
from krona.exchange.export import export_adapter
from krona.exchange.formats import peft_folder
from krona.exchange.formats.names import ExportFormat

SQUARE = AdapterConfig(factors=(4, 4), scale=0.5)
OBLONG = AdapterConfig(factors=(8, 4), scale=-0.5)
MIXED = AdapterConfig(factors={"q": (4, 4), "v": (2, 2)}, targets=("q", "v"))
LORA = AdapterConfig(kind="lora", rank=3, scale=2.0)
TEXT = {"sd": ("cond_stage_model.transformer.",), "sdxl": ("conditioner.embedders.0.transformer.",)}
TEXT["sdxl"] += ("conditioner.embedders.1.model.",)


@pytest.fixture(params=["sd", "sd2", "sdxl"])
def base(request: pytest.FixtureRequest) -> Base:
    return request.getfixturevalue(request.param)


def comfyui(base: Base, output: Path, folder: Path) -> Base:
    """What ComfyUI makes of a LoKr file: its names on the original checkpoint's own tensors.

    ComfyUI's rule: the key of a layer is "lora_unet_" and the model's own path, dots made
    underscores; for SD 1.x and 2.x also diffusers' path. alpha counts only beside a factor that is
    a product, which none is here.
    """
    state = original_state(base.pipeline(), text=TEXT[base.family])
    inner = "model.diffusion_model."
    names = {
        "lora_unet_" + k.removeprefix(inner).removesuffix(".weight").replace(".", "_"): k
        for k in state
        if k.startswith(inner)
    }
    if base.family == "sd":
        ours = {k: v.data_ptr() for k, v in base.unet.state_dict().items()}
        theirs = {state[k].data_ptr(): k for k in names.values()}
        paths = {
            k.removesuffix(".weight").replace(".", "_"): theirs[p]
            for k, p in ours.items()
            if p in theirs  # convolutions are copied into another memory format
        }
        names = {f"lora_unet_{path}": k for path, k in paths.items()}
    lokr = load_file(output)
    layers = {name.partition(".")[0] for name in lokr}
    assert layers <= set(names)
    for layer in layers:
        update = torch.kron(lokr[f"{layer}.lokr_w1"], lokr[f"{layer}.lokr_w2"])
        state[names[layer]] = state[names[layer]] + update
    path = folder / "comfyui.safetensors"
    save_file(state, path, _schedule(base))
    return load_base(BaseSource(name=str(path), config=Path(base.source)))


def _schedule(base: Base) -> dict[str, str]:
    return {"modelspec.prediction_type": "v" if base.prediction_type[0] == "v" else "epsilon"}


def lycoris(base: Base, output: Path, folder: Path) -> Base:
    unet = copy.deepcopy(base.unet)
    network, _ = create_lycoris_from_weights(1.0, str(output), unet)
    assert network.loras
    network.apply_to()
    unet.lycoris = network  # it is gone with its network
    return replace(base, unet=unet)


def diffusers(base: Base, output: Path, folder: Path) -> Base:
    unet = copy.deepcopy(base.unet)
    unet.load_lora_adapter(str(output), prefix="unet")
    return replace(base, unet=unet)


def peft(base: Base, output: Path, folder: Path) -> Base:
    unet = copy.deepcopy(base.unet)
    PeftModel.from_pretrained(unet, str(output))
    return replace(base, unet=unet)


def lora(base: Base, output: Path, folder: Path) -> Base:
    copied = replace(base, unet=copy.deepcopy(base.unet))
    copied.pipeline().load_lora_weights(str(output))
    return copied


def merged(base: Base, output: Path, folder: Path) -> Base:
    return load_base(output)


def merged_file(base: Base, output: Path, folder: Path) -> Base:
    return load_base(BaseSource(name=str(output), config=Path(base.source)))


TOOLS: dict[str, Callable[[Base, Path, Path], Base]] = {
    "kohya": comfyui,
    "lycoris": lycoris,
    "diffusers": diffusers,
    "peft": peft,
    "lora": lora,
    "merged": merged,
    "merged-file": merged_file,
}
HOLD_ALL = ("kohya", "lora", "merged", "merged-file")


@contextmanager
def attached(base: Base, path: Path) -> Iterator[None]:
    adapter = attach(base, path)
    try:
        yield
    finally:
        adapter.eject()


@pytest.mark.parametrize("format", TOOLS)
def test_the_tool_predicts_and_draws_what_krona_does(
    base: Base, train: Any, tmp_path: Path, format: ExportFormat
) -> None:
    path, expected = train(base, OBLONG if format in HOLD_ALL else SQUARE)
    output = place(tmp_path, format)
    with unchanged(base):
        report = export_adapter(path, base=base, format=format, output=output, dtype="fp32")
    assert report.rel_error < 1e-5
    plain = draw(base)
    with attached(base, path):
        ours = draw(base)
    tool = TOOLS[format](base, output, tmp_path)
    assert_close(predict(tool.unet), expected)
    moved, differs = np.abs(ours - plain).max(), np.abs(ours - draw(tool)).max()
    print(f"grey levels: the adapter moves {moved}, the tool differs by {differs}")
    assert moved > 20
    assert differs <= 2


@pytest.mark.parametrize(
    ("format", "config"),
    [("lycoris", MIXED), ("lycoris", LORA), ("peft", LORA), ("lora", MIXED), ("lora", LORA)],
)
def test_the_tool_predicts_what_krona_does_for_other_adapters(
    sd: Base, train: Any, tmp_path: Path, format: ExportFormat, config: AdapterConfig
) -> None:
    path, expected = train(sd, config)
    output = place(tmp_path, format)
    with unchanged(sd):
        export_adapter(path, base=sd, format=format, output=output, dtype="fp32")
    assert_close(predict(TOOLS[format](sd, output, tmp_path).unet), expected)


@pytest.mark.parametrize("format", ["kohya", "lycoris", "diffusers", "peft", "lora"])
def test_the_tool_predicts_nearly_the_same_from_the_default_precision(
    sd: Base, train: Any, tmp_path: Path, format: ExportFormat
) -> None:
    path, expected = train(sd, SQUARE)
    output = place(tmp_path, format)
    export_adapter(path, base=sd, format=format, output=output)
    got = predict(TOOLS[format](sd, output, tmp_path).unet)
    error, moved = (got - expected).norm(), (expected - predict(sd.unet)).norm()
    print(f"relative error of what the adapter adds: {error / moved:.2g}")
    assert 0 < error < 2e-3 * moved


@pytest.mark.parametrize("format", TOOLS)
def test_the_measured_error_stands_in_the_export(
    sd: Base, train: Any, tmp_path: Path, format: ExportFormat
) -> None:
    path, _ = train(sd, SQUARE)
    output = place(tmp_path, format)
    report = export_adapter(path, base=sd, format=format, output=output)
    if output.is_dir():
        said = json.loads((output / "krona.json").read_text())
        manifest, said = said["manifest"], said["export"]
    else:
        with safe_open(output, framework="pt") as file:
            metadata = file.metadata()
        manifest, said = (
            json.loads(metadata["krona_manifest"]),
            json.loads(metadata["krona_export"]),
        )
    assert manifest == json.loads(make_manifest(sd, SQUARE).to_json())
    tools = ("lycoris_lora 4", "diffusers 0.", "peft 0.")
    assert said.pop("loaded_by").startswith(tools)
    assert said == {
        "format": format,
        "rank": None,
        "dtype": "fp32" if format.startswith("merged") else "fp16",
        "max_abs_error": report.max_abs_error,
        "rel_error": report.rel_error,
        "rounding_error": report.rounding_error,
        "krona": "0.1.0",
    }


def test_a_truncated_lora_states_what_the_truncation_loses(
    sd: Base, train: Any, tmp_path: Path
) -> None:
    path, _ = train(sd, OBLONG)
    output = place(tmp_path, "lora")
    report = export_adapter(path, base=sd, format="lora", output=output, rank=5)
    adapter = attach(sd, path)
    adapter.eject()
    sizes = [torch.linalg.svdvals(layer.delta()) for layer in adapter.layers.values()]
    lost = sum(s[5:].square().sum().item() for s in sizes) ** 0.5
    whole = sum(s.square().sum().item() for s in sizes) ** 0.5
    assert report.rel_error == pytest.approx(lost / whole, rel=1e-4)
    assert report.rel_error > 0.1
    assert report.rank == 5
    downs = [t for name, t in load_file(output).items() if "lora_down" in name]
    assert {len(down) for down in downs} == {5}
    with safe_open(output, framework="pt") as file:
        assert json.loads(file.metadata()["krona_export"])["rel_error"] == report.rel_error


def test_an_exact_lora_has_the_rank_of_both_factors(sd: Base, train: Any, tmp_path: Path) -> None:
    path, _ = train(sd, AdapterConfig(factors=(2, 8), targets=("q",)))
    output = place(tmp_path, "lora")
    export_adapter(path, base=sd, format="lora", output=output)
    tensors = load_file(output)
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    # q is 64×64: A is 2×8 of rank 2, B is 32×8 of rank 8
    assert tensors[f"{layer}.lora_down.weight"].shape == (16, 64)
    # one alpha for all: that of mid_block, where q is 128×128 and B 64×16 of rank 16
    assert {t.item() for name, t in tensors.items() if name.endswith(".alpha")} == {32}


def test_single_file_has_the_tensors_of_the_original_code(base: Base, tmp_path: Path) -> None:
    adapter = inject(base.unet, SQUARE, seed=0)  # untrained: the merged weights are the base's
    adapter.eject()
    save_adapter(tmp_path / "a", adapter.state_dict(), make_manifest(base, SQUARE))
    output = place(tmp_path, "merged-file")
    export_adapter(tmp_path / "a", base=base, format="merged-file", output=output)
    expected = original_state(base.pipeline(), text=TEXT[base.family])
    got = load_file(output)
    assert got.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in got.items())


def test_single_file_of_wide_text_encoder_is_in_open_clips_naming(
    sd2: Base, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("krona.exchange.formats.merged_file._OPEN_CLIP_WIDTH", 32)
    path, _ = train(sd2, SQUARE)
    output = place(tmp_path, "merged-file")
    export_adapter(path, base=sd2, format="merged-file", output=output)
    expected = original_state(sd2.pipeline(), text=("cond_stage_model.model.",))
    assert load_file(output).keys() == expected.keys()
    assert (
        load_base(BaseSource(name=str(output), config=Path(sd2.source))).prediction_type
        == "v_prediction"
    )


@pytest.mark.parametrize("config", [SQUARE, LORA])
def test_peft_export_needs_no_peft(
    sd: Base, train: Any, tmp_path: Path, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft_folder, "find_spec", lambda _: None)
    path, _ = train(sd, config)
    output = place(tmp_path, "peft")
    report = export_adapter(path, base=sd, format="peft", output=output, dtype="fp32")
    assert report.loaded_by == "krona"
    assert report.rel_error < 1e-6
