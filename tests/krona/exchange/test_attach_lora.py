"""LoRA files of other tools on a base: as diffusers, PEFT and LyCORIS apply them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from loras import (
    NAMINGS,
    attention,
    blocks,
    copied,
    everything,
    kohya,
    outputs,
    processors,
    random_lora,
)
from lycoris.modules import get_module, make_module
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from trained import assert_close, unchanged

from krona.adapter.inject import is_of_text
from krona.base.checkpoint import Base
from krona.exchange.attach import attach, read_origin
from krona.exchange.formats.kohya import layer_name


@pytest.fixture(params=["sd", "sd2", "sdxl"])
def base(request: pytest.FixtureRequest) -> Base:
    return request.getfixturevalue(request.param)


def attached_outputs(base: Base, path: Path) -> list[Tensor]:
    with unchanged(base):
        adapter = attach(base, path)
        got = outputs(base)
        adapter.eject()
    return got


def diffusers_outputs(base: Base, path: Path) -> list[Tensor]:
    theirs = copied(base)
    theirs.pipeline().load_lora_weights(str(path))
    return outputs(theirs)


def assert_all_close(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert_close(ours, theirs)


def assert_moved(got: Sequence[Tensor], plain: Sequence[Tensor]) -> None:
    for ours, theirs in zip(got, plain, strict=True):
        assert (ours - theirs).norm() > 1e-2 * theirs.norm()


@pytest.mark.parametrize("paths", [attention, blocks])
@pytest.mark.parametrize("naming", NAMINGS)
def test_lora_is_applied_as_diffusers_does(
    base: Base, tmp_path: Path, naming: str, paths: Any
) -> None:
    tensors = NAMINGS[naming](base, random_lora(base, paths(base)))
    path = tmp_path / "mine.safetensors"
    save_file(tensors, path)
    got = attached_outputs(base, path)
    assert_moved(got, outputs(base))
    assert_all_close(got, diffusers_outputs(base, path))
    assert read_origin(path).name == "mine"


@pytest.mark.parametrize("naming", ["kohya", "peft"])
def test_lora_of_every_layer_of_a_unet_is_applied_as_diffusers_does(
    base: Base, tmp_path: Path, naming: str
) -> None:
    path = tmp_path / "all.safetensors"
    save_file(NAMINGS[naming](base, random_lora(base, everything(base))), path)
    assert_all_close(attached_outputs(base, path), diffusers_outputs(base, path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_ranks_that_differ_are_read(
    base: Base, tmp_path: Path, dtype: torch.dtype
) -> None:
    weights = random_lora(base, attention(base), ranks=(2, 5, 8))
    tensors = NAMINGS["peft"](base, weights)
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)
    assert_all_close(attached_outputs(base, path), diffusers_outputs(base, path))


def test_names_of_attention_processors_are_read_as_lora(base: Base, tmp_path: Path) -> None:
    paths = [path for path in attention(base) if not is_of_text(path)]
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(processors(base, random_lora(base, paths)), path)
    assert_all_close(attached_outputs(base, path), diffusers_outputs(base, path))


@pytest.mark.parametrize("algorithm", ["linear", "tucker"])
def test_alphas_of_single_layers_and_lora_mid_are_applied_as_lycoris_does(
    base: Base, tmp_path: Path, algorithm: str
) -> None:
    weights = random_lora(base, blocks(base), ranks=(2, 4))
    tensors: dict[str, Tensor] = {}
    for i, (path, (down, up)) in enumerate(weights.items()):
        tensors |= kohya(base, {path: (down, up)}, alpha=1.0 + i)
        name = layer_name(path, base.family, base.unet.config)
        if algorithm == "tucker" and down.ndim == 4 and down.shape[2] == 3:
            tensors[f"{name}.lora_down.weight"] = torch.randn(len(down), down.shape[1], 1, 1)
            tensors[f"{name}.lora_mid.weight"] = torch.randn(len(down), len(down), 3, 3)
    assert any("lora_mid" in name for name in tensors) == (algorithm == "tucker")
    path = tmp_path / "locon.safetensors"
    save_file(tensors, path)
    adapter = attach(base, path)
    adapter.eject()
    for layer_path, layer in adapter.layers.items():
        name = layer_name(layer_path, base.family, base.unet.config)
        kind, parts = get_module(tensors, name)
        module = make_module(kind, parts, name, layer.base)
        torch.testing.assert_close(layer.delta(), module.get_diff_weight()[0])
    assert adapter.layers.keys() == weights.keys()


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 6},
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {
            "r": 4,
            "rank_pattern": {"attn1.to_q": 2, "^conv_in": 3},
            "alpha_pattern": {"attn2.to_[kv]": 3},
        },
    ],
)
def test_peft_folder_is_applied_as_peft_does(
    base: Base, tmp_path: Path, settings: dict[str, Any]
) -> None:
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "proj_in", "conv_in", "conv1"]
    theirs = copied(base)
    model = PeftModel(theirs.unet, LoraConfig(**settings, target_modules=targets))
    generator = torch.Generator().manual_seed(3)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data.normal_(std=0.1, generator=generator)
    model.save_pretrained(tmp_path / "peft")
    expected = outputs(theirs)
    assert_moved(expected[:1], outputs(base)[:1])
    assert_all_close(attached_outputs(base, tmp_path / "peft"), expected)
    weights = tmp_path / "peft" / "adapter_model.safetensors"
    assert_all_close(attached_outputs(base, weights), expected)


@pytest.mark.parametrize("is_pipelines", [True, False])
def test_config_in_the_metadata_of_diffusers_counts(
    sdxl: Base, tmp_path: Path, is_pipelines: bool
) -> None:
    """What the pipeline's and the UNet's own saving write: prefixes of the parts, and none."""
    config = {"r": 3, "lora_alpha": 12, "target_modules": ["to_q"]}
    config |= {"alpha_pattern": {"attn2.to_q": 5}, "use_rslora": True}
    theirs = copied(sdxl)
    theirs.unet.add_adapter(LoraConfig(**config))
    text = LoraConfig(r=3, lora_alpha=9, target_modules=["q_proj"])
    theirs.text_encoders[0].add_adapter(text)
    generator = torch.Generator().manual_seed(3)
    trained = [theirs.unet, theirs.text_encoders[0]]
    for parameter in (p for m in trained for p in m.parameters() if p.requires_grad):
        parameter.data.normal_(std=0.1, generator=generator)
    if is_pipelines:
        states = [get_peft_model_state_dict(module) for module in trained]
        metadata = [module.peft_config["default"].to_dict() for module in trained]
        StableDiffusionXLPipeline.save_lora_weights(
            tmp_path,
            unet_lora_layers=states[0],
            text_encoder_lora_layers=states[1],
            unet_lora_adapter_metadata=metadata[0],
            text_encoder_lora_adapter_metadata=metadata[1],
        )
    else:
        theirs.unet.save_lora_adapter(tmp_path)
        theirs = replace(theirs, text_encoders=sdxl.text_encoders)
    got = attached_outputs(sdxl, tmp_path / "pytorch_lora_weights.safetensors")
    assert_all_close(got, outputs(theirs))
