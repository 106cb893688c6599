"""LoRA files that hold more than a LoRA, or one of another base: refused, nothing is dropped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loras import attention, kohya, processors, random_lora
from safetensors.torch import save_file
from torch import Tensor
from trained import unchanged

from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.attach import attach, read_origin

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "lora_unet_mid_block_resnets_0_conv1"


def lora(name: str = Q, **changes: Tensor | None) -> dict[str, Tensor]:
    parts: dict[str, Any] = {"lora_down.weight": torch.ones(2, 128)}
    parts |= {"lora_up.weight": torch.ones(128, 2), "alpha": torch.ones(())}
    parts |= {part.replace("__", "."): tensor for part, tensor in changes.items()}
    return {f"{name}.{part}": tensor for part, tensor in parts.items() if tensor is not None}


def cube(*shape: int) -> dict[str, Any]:
    return lora(
        CONV,
        lora_down__weight=torch.ones(2, 128, 1, 1),
        lora_up__weight=torch.ones(128, 2, 1, 1),
        lora_mid__weight=torch.ones(shape),
    )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lora(dora_scale=torch.ones(128)), r"dora_scale' is of a DoRA, which scales every row"),
        (lora(diff_b=torch.ones(128)), r"diff_b' is no part of a LoRA of linear layers"),
        (lora() | {"bundle_emb.sks": torch.ones(1, 2)}, r"'bundle_emb\.sks' is no part of a LoRA"),
        (lora(lora_up__weight=None), r"has only alpha, down; the file is not whole"),
        (lora(lora_down__weight=None), r"has only alpha, up; the file is not whole"),
        (lora(lora_up__weight=torch.ones(128, 3)), r"has ranks 2 and 3, not one"),
        (lora(lora_up__weight=torch.ones(64, 2)), r"is 64×128, and the base's layer is 128×128"),
        (lora(lora_up__weight=torch.ones(128)), r"has the shape \(128,\), which no LoRA has"),
        (lora(lora_up__weight=torch.ones(0, 2)), r"has the shape \(0, 2\), which no LoRA has"),
        (lora(alpha=torch.ones(2)), r"alpha' has the shape \(2,\), which no LoRA has"),
        (lora("lora_unet_input_blocks_4_1_proj_in"), r"^\S+ does not fit .*proj_in is no linear"),
        (
            lora(lora_A__weight=torch.ones(2, 128)),
            r"lora_\w+\.weight' is there twice, under another",
        ),
        (cube(3, 2, 3, 3), r"lora_mid of shape \(3, 2, 3, 3\)"),
        (cube(2, 2, 5, 5), r"is 128×3200, and the base's layer is 128×1152"),
        (lora() | lora(f"unet.{DOTTED}"), rf"has the layer {DOTTED} twice, once as lora_unet_mid"),
        (
            {
                f"base_model.model.{DOTTED}.lora_A.weight": torch.ones(2, 128),
                f"base_model.model.{DOTTED}.lora_B.weight": torch.ones(128, 2),
            },
            r"which only its adapter_config\.json tells; give their folder",
        ),
    ],
)
def test_lora_that_does_not_fit_is_refused(
    sd: Base, tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(tensors, path)
    with pytest.raises(KronaError, match=message), unchanged(sd):
        attach(sd, path)


def test_lora_of_another_family_is_refused(sd: Base, sdxl: Base, tmp_path: Path) -> None:
    path = tmp_path / "xl.safetensors"
    save_file(kohya(sdxl, random_lora(sdxl, attention(sdxl))), path)
    with pytest.raises(
        KronaError, match=r"and \d+ more is no linear layer .* give the base it was"
    ):
        attach(sd, path)


def test_file_of_processors_that_is_partly_kronecker_is_refused(
    sd: Base, published: Any, tmp_path: Path
) -> None:
    tensors = processors(sd, random_lora(sd, [DOTTED]))
    path = published(sd, **tensors)
    with pytest.raises(KronaError, match="is a LoRA of rank 3, and other layers of the file are"):
        attach(sd, path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights=pissa_niter_4, which has chang",
        ),
        ({"lora_alpha": "two"}, "the config's lora_alpha or alpha_pattern is damaged"),
        ({"lora_alpha": float("nan")}, "lora_alpha of mid_block.* is nan, which is not finite"),
    ],
)
def test_peft_config_that_says_no_plain_lora_is_refused(
    sd: Base, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    pair = {"lora_A": torch.ones(2, 128), "lora_B": torch.ones(128, 2)}
    tensors = {f"base_model.model.{DOTTED}.{part}.weight": t for part, t in pair.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2} | settings
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(KronaError, match=message), unchanged(sd):
        attach(sd, tmp_path)


def test_damaged_config_in_the_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(lora(), path, {"lora_adapter_metadata": "{"})
    with pytest.raises(KronaError, match="lora_adapter_metadata of its metadata is damaged"):
        read_origin(path)
