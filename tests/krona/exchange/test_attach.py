"""Adapters of other tools on a base: as the tool that made them applies them, or refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris
from peft import LoKrConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from trained import assert_close, predict, unchanged

from krona.adapter.inject import attention_linears
from krona.adapter.layers import AdapterConfig, PublishedKronLinear
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.attach import attach, read_origin
from krona.exchange.export import export_adapter
from krona.exchange.formats.kohya import layer_name

OBLONG = AdapterConfig(factors=(8, 4), scale=0.5)
SQUARE = AdapterConfig(factors=(4, 4), scale=0.5)
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture(params=["sd", "sdxl"])
def base(request: pytest.FixtureRequest) -> Base:
    return request.getfixturevalue(request.param)


def attached_prediction(base: Base, path: Path, **options: Any) -> Tensor:
    with unchanged(base):
        adapter = attach(base, path, **options)
        got = predict(base.unet)
        adapter.eject()
    return got


def randomize(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in parameters:
        parameter.data.normal_(std=0.3, generator=generator)


@pytest.mark.parametrize("format", ["kohya", "diffusers", "lycoris", "peft"])
def test_what_krona_exports_it_reads_back(
    base: Base, train: Any, tmp_path: Path, format: Any
) -> None:
    path, expected = train(base, OBLONG if format == "kohya" else SQUARE)
    output = tmp_path / "out" / ("duck" if format == "peft" else "duck.safetensors")
    export_adapter(path, base=base, format=format, output=output, dtype="fp32")
    assert_close(attached_prediction(base, output), expected)
    assert read_origin(output) == read_origin(path)


@pytest.mark.parametrize("is_sgm", [True, False])
@pytest.mark.parametrize("decompose_both", [True, False])
def test_lokr_of_lycoris_is_applied_as_lycoris_does(
    base: Base, tmp_path: Path, monkeypatch: Any, is_sgm: bool, decompose_both: bool
) -> None:
    for name, value in (("TARGET_REPLACE_MODULE", ["Attention"]), ("TARGET_REPLACE_NAME", [])):
        monkeypatch.setattr(LycorisNetwork, name, value)
    monkeypatch.setattr(LycorisNetwork, "apply_preset", lambda _: None)
    unet = copy.deepcopy(base.unet)
    network = create_lycoris(
        unet, 1.0, linear_dim=1, linear_alpha=3, algo="lokr", decompose_both=decompose_both
    )
    network.apply_to()
    randomize(network.parameters())
    weights = {k: v for k, v in network.state_dict().items() if "org" not in k}
    if is_sgm:  # as kohya's tools name them
        names = {
            "lycoris_" + p.replace(".", "_"): layer_name(p, base.family, base.unet.config)
            for p in attention_linears(base.unet)
        }
        weights = {
            names[k.partition(".")[0]] + "." + k.partition(".")[2]: v for k, v in weights.items()
        }
    assert any("lokr_w2_a" in k for k in weights)
    assert decompose_both == any("lokr_w1_a" in k for k in weights)
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "lokr.safetensors")
    assert_close(attached_prediction(base, tmp_path / "lokr.safetensors"), predict(unet))
    assert read_origin(tmp_path / "lokr.safetensors").name == "lokr"


@pytest.mark.parametrize("settings", [{"r": 2, "alpha": 3}, {"r": 64, "alpha": 32}])
def test_lokr_of_peft_is_applied_as_peft_does(
    base: Base, tmp_path: Path, settings: dict[str, int]
) -> None:
    config = LoKrConfig(
        **settings, decompose_factor=8, target_modules=TARGETS, alpha_pattern={"attn2.to_k": 7}
    )
    unet = copy.deepcopy(base.unet)
    model = PeftModel(unet, config)
    randomize(p for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path / "peft")
    assert_close(attached_prediction(base, tmp_path / "peft"), predict(unet))
    weights = tmp_path / "peft" / "adapter_model.safetensors"
    assert_close(attached_prediction(base, weights), predict(unet))


class PublishedForward(nn.Module):
    """The arithmetic of DiffuseKronA's forward on (batch, tokens, d_in) activations.

    Each token is read as X (a2, b2); up·Xᵀ·down is (b1, a1), written out row by row.
    """

    def __init__(self, base: nn.Linear, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.base, self.down, self.up = base, down, up

    def forward(self, x: Tensor) -> Tensor:
        X = x.reshape(-1, self.down.shape[0], self.up.shape[1])
        update = self.up @ (X.transpose(1, 2) @ self.down)
        return self.base(x) + update.reshape(*x.shape[:-1], -1)


def published_prediction(base: Base, path: Path) -> Tensor:
    tensors, unet = load_file(path), copy.deepcopy(base.unet)
    for layer_path, layer in attention_linears(unet).items():
        attention, _, end = layer_path.rpartition(".to_")
        stem = f"unet.{attention}.processor.to_{end.removesuffix('.0')}_lora"
        down, up = tensors[f"{stem}.down.weight"], tensors[f"{stem}.up.weight"]
        unet.set_submodule(layer_path, PublishedForward(layer, down, up))
    return predict(unet)


def test_published_checkpoint_is_applied_as_its_code_does(base: Base, published: Any) -> None:
    path = published(base)
    assert_close(attached_prediction(base, path), published_prediction(base, path))


def test_update_of_a_published_layer_by_hand() -> None:
    # A = [[1], [2]], B = [[3], [4]]: A ⊗ B would be 3, 4, 6, 8; the rows stand in another order
    layer = PublishedKronLinear(
        nn.Linear(1, 4), torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    )
    assert layer.delta().flatten().tolist() == [3, 6, 4, 8]


@pytest.mark.parametrize("format", ["lora", "merged"])
def test_published_checkpoint_is_exported_exactly(
    sd: Base, published: Any, tmp_path: Path, format: Any
) -> None:
    path = published(sd)
    output = tmp_path / "out" / ("lora.safetensors" if format == "lora" else "merged")
    with unchanged(sd):
        report = export_adapter(path, base=sd, format=format, output=output, dtype="fp32")
    assert report.rel_error < 1e-5
    if format == "lora":
        pipeline = sd.pipeline()
        pipeline.load_lora_weights(str(output))
        got = predict(sd.unet)
        pipeline.unload_lora_weights()
    else:
        got = predict(type(sd.unet).from_pretrained(output, subfolder="unet"))
    assert_close(got, published_prediction(sd, path))


@pytest.mark.parametrize("format", ["kohya", "diffusers", "lycoris", "peft"])
def test_published_checkpoint_is_refused_where_only_products_fit(
    sd: Base, published: Any, tmp_path: Path, format: Any
) -> None:
    output = tmp_path / "out" / ("x" if format == "peft" else "x.safetensors")
    with pytest.raises(KronaError, match="cannot hold this adapter; lora, merged, merged-file can"):
        export_adapter(published(sd), base=sd, format=format, output=output)
    assert not output.parent.exists()
