"""A tiny pipeline in, the state dict its authors would have published in one file out.

The inverse of what diffusers' from_single_file does, for one resnet a level and two levels.
"""

import re
from typing import Any

import torch
from torch import Tensor

_RESNET = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
]
_UNET = [
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
]
_VAE = [
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
]
_OPEN_CLIP = [
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.token_embedding", "token_embedding"),
    ("encoder.layers", "transformer.resblocks"),
    ("final_layer_norm", "ln_final"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn", "attn"),
    ("fc1", "c_fc"),
    ("fc2", "c_proj"),
]


def original_state(pipeline: Any, *, text: tuple[str, ...]) -> dict[str, Tensor]:
    """All weights under their original names.

    Args:
        text: the prefix of each text encoder; one that ends in "model." is open_clip's.
    """
    attends_first = pipeline.unet.config.up_block_types[0] == "CrossAttnUpBlock2D"
    state = {
        f"model.diffusion_model.{_unet(k, attends_first=attends_first)}": v
        for k, v in _tensors(pipeline.unet)
    }
    state |= {f"first_stage_model.{_vae(k)}": _conv(k, v) for k, v in _tensors(pipeline.vae)}
    encoders = [pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)]
    for prefix, encoder in zip(text, encoders, strict=False):
        tensors = {k.removeprefix("text_model."): v for k, v in _tensors(encoder)}
        if prefix.endswith("model."):
            tensors = _open_clip(tensors)
        else:
            tensors = {f"text_model.{k}": v for k, v in tensors.items()}
        state |= {prefix + k: v for k, v in tensors.items()}
    return {k: v.contiguous() for k, v in state.items()}


def _tensors(module: Any) -> list[tuple[str, Tensor]]:
    return list(module.state_dict().items())


def _renamed(key: str, pairs: list[tuple[str, str]]) -> str:
    for ours, theirs in pairs:
        key = re.sub(rf"(^|\.){re.escape(ours)}(\.|$)", rf"\g<1>{theirs}\g<2>", key)
    return key


def _unet(key: str, *, attends_first: bool) -> str:
    key = _renamed(key, _UNET)
    key = key.replace("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op")
    upsampler = f"output_blocks.1.{2 if attends_first else 1}.conv"
    key = key.replace("up_blocks.0.upsamplers.0.conv", upsampler)
    for i in range(2):
        for part, name in enumerate(("resnets", "attentions")):
            key = key.replace(f"down_blocks.{i}.{name}.0", f"input_blocks.{1 + 2 * i}.{part}")
            for j in range(2):
                key = key.replace(f"up_blocks.{i}.{name}.{j}", f"output_blocks.{2 * i + j}.{part}")
    is_resnet = re.search(r"(input|output)_blocks\.\d\.0\.|middle_block\.[02]\.", key)
    return _renamed(key, _RESNET) if is_resnet else key


def _vae(key: str) -> str:
    key = _renamed(key, _VAE)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{1 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", key)


def _conv(key: str, value: Tensor) -> Tensor:
    """The autoencoder's attention was made of 1x1 convolutions."""
    is_linear = "attentions" in key and value.ndim == 2
    return value[:, :, None, None] if is_linear else value


def _open_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = _renamed(key, _OPEN_CLIP).replace("c_", "mlp.c_").replace("mlp.mlp.", "mlp.")
        joined = re.sub(r"\.q_proj\.(\w+)$", r".in_proj_\1", name)
        if joined != name:
            parts = [tensors[key.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            state[joined] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", name):
            state[name.replace("text_projection.weight", "text_projection")] = (
                value.T if name.startswith("text_projection") else value
            )
    return state
