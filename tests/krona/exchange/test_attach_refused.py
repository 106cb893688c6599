"""Adapters of other tools that are damaged, or do not fit: refused before a base is touched."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from trained import unchanged

from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.attach import attach, read_origin
from krona.exchange.export import export_adapter


def lokr(**changes: Any) -> dict[str, Tensor]:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    parts = {"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(32, 32), "alpha": torch.ones(())}
    tensors = {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return {k: v for k, v in (tensors | changes).items() if v is not None}


Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lokr(**{f"{Q}.lokr_w2": torch.ones(8, 8)}), r"is 32×32, and the base's layer is 128×128"),
        (lokr(**{f"{Q}.lokr_w2": None}), r"has no lokr_w2, and no lokr_w2_a and lokr_w2_b"),
        (
            lokr(
                **{f"{Q}.lokr_w2": None},
                **{f"{Q}.lokr_w2_a": torch.ones(32, 2), f"{Q}.lokr_w2_b": torch.ones(3, 32)},
            ),
            "no lokr_w2_a and lokr_w2_b that multiply",
        ),
        (lokr(**{f"{Q}.lokr_w2": torch.ones(32, 32, 1, 1)}), r"\(32, 32, 1, 1\) is no matrix"),
        (lokr(**{f"{Q}.lokr_w2_b": torch.ones(0, 32)}), r"\(0, 32\) is no matrix"),
        (lokr(**{f"{Q}.alpha": torch.ones(2)}), r"alpha' of shape \(2,\) is no number"),
        (lokr(**{f"{Q}.dora_scale": torch.ones(1)}), r"dora_scale' is no part of a LoKr of linear"),
        (
            lokr(**{"lora_te_text_model_embeddings.alpha": torch.ones(())}),
            r"lora_te_text_model_embeddings is no linear layer",
        ),
        (
            {"unet.mid_block.attentions.0.proj_in.lokr_w1_a": torch.ones(4, 1)},
            "no linear layer in an attention block",
        ),
    ],
)
def test_lokr_that_does_not_fit_is_refused(
    sd: Base, tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    path = tmp_path / "lokr.safetensors"
    save_file(tensors, path)
    with pytest.raises(KronaError, match=message), unchanged(sd):
        attach(sd, path)
    with pytest.raises(KronaError, match=message), unchanged(sd):
        export_adapter(path, base=sd, format="merged", output=tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["lokr.safetensors"]


def test_lokr_in_kohyas_form_of_another_base_is_refused(
    sd: Base, sdxl: Base, train: Any, tmp_path: Path
) -> None:
    path, _ = train(sd, AdapterConfig(factors=(8, 4)))
    export_adapter(path, base=sd, format="kohya", output=tmp_path / "out" / "duck.safetensors")
    with pytest.raises(KronaError, match="is for a sd base"), unchanged(sdxl):
        attach(sdxl, tmp_path / "out" / "duck.safetensors")


PUBLISHED_Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"up.weight": torch.ones(4, 4)}, r"is 32×16, and the base's layer is 128×128"),
        (
            {"down.weight": torch.ones(4, 128), "up.weight": torch.ones(128, 4)},
            "is a LoRA of rank 4, and other layers of the file are none",
        ),
        ({"down.weight": torch.ones(32)}, r"shape \(32,\) and \(16, 32\), which are no matrices"),
    ],
)
def test_published_checkpoint_that_does_not_fit_is_refused(
    sd: Base, published: Any, changes: dict[str, Tensor], message: str
) -> None:
    path = published(sd, **{f"{PUBLISHED_Q}.{part}": t for part, t in changes.items()})
    with pytest.raises(KronaError, match=message), unchanged(sd):
        attach(sd, path)


@pytest.mark.parametrize("name", ["x.safetensors", "pytorch_lora_weights.bin"])
def test_pickle_truncated_and_foreign_files_are_refused_before_a_base_is_touched(
    sd: Base, published: Any, tmp_path: Path, name: str
) -> None:
    whole = published(sd).read_bytes()
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(KronaError, match="is a pickle, which can run any code"):
        read_origin(path)
    path.write_bytes(whole[:-8])
    with pytest.raises(KronaError, match="damaged, truncated"), unchanged(sd):
        attach(sd, path)
    save_file({"conv.weight": torch.ones(1)}, path)
    with pytest.raises(KronaError, match=r"no adapter that krona reads, and holds conv\.weight"):
        attach(sd, path)


def test_peft_folder_that_is_none_is_refused(sd: Base, tmp_path: Path) -> None:
    with pytest.raises(KronaError, match=r"has no adapter_config\.json"):
        attach(sd, tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text("{")
    with pytest.raises(KronaError, match="is damaged"):
        attach(sd, tmp_path)
    config.write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(KronaError, match="of type IA3; krona reads LORA and LOKR"):
        attach(sd, tmp_path)
    config.write_text(json.dumps({"peft_type": "LOKR"}))
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(KronaError, match="holds a pickle, which is never opened"):
        attach(sd, tmp_path)


@pytest.mark.parametrize(
    ("prefix", "parts"),
    [
        ("base_model.model.", {"lokr_w1": (4, 4), "lokr_w2": (32, 32)}),
        ("unet.", {"lokr_w1": (4, 4), "lokr_w2_a": (32, 2), "lokr_w2_b": (2, 32)}),
        ("unet.", {"lokr_w1": (4, 4), "lokr_w2": (32, 32), "alpha": ()}),
    ],
)
def test_bare_peft_file_of_unknown_scale_is_refused(
    sd: Base, tmp_path: Path, prefix: str, parts: dict[str, tuple[int, ...]]
) -> None:
    q = f"{prefix}mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    path = tmp_path / "lokr.safetensors"
    save_file({f"{q}.{part}": torch.ones(shape) for part, shape in parts.items()}, path)
    with pytest.raises(KronaError, match=r"which only its adapter_config\.json tells"):
        attach(sd, path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": None}, "the config's alpha or alpha_pattern is damaged"),
        ({"r": "eight"}, "the config's r or rank_pattern is damaged"),
        ({"alpha_pattern": [1]}, "the config's alpha or alpha_pattern is damaged"),
        ({"rank_pattern": {"(": 1}}, "the config's r or rank_pattern is damaged"),
        ({"r": 0}, "r=0 is not positive"),
        ({"alpha": float("inf")}, "alpha of mid_block.* is inf, which is not finite"),
    ],
)
def test_peft_config_that_is_damaged_is_refused(
    sd: Base, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    q = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{q}.lokr_w1": torch.ones(4, 4), f"{q}.lokr_w2": torch.ones(32, 32)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOKR"} | settings))
    with pytest.raises(KronaError, match=message), unchanged(sd):
        attach(sd, tmp_path)
