"""Names and tensors of diffusers' modules in; out, those of the code the checkpoints came from.

Stability's code numbers a UNet's blocks through: after conv_in, a down block is its layers and a
downsampler, an up block is one layer more; entry 0 of each is the resnet, entry 1 the attention.
Source: CompVis/stable-diffusion, Stability-AI/generative-models, mlfoundations/open_clip.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_LAYER = re.compile(r"^(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions)\.(\d+)")
_SAMPLER = re.compile(r"^(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv")
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "encoder.layers": "transformer.resblocks",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def block_path(path: str, layers_per_block: int) -> str:
    """Give the path of a resnet or an attention, or of anything in one, its original start."""
    stride = layers_per_block + 1

    def rename(match: re.Match[str]) -> str:
        side, block, layer = match[1], int(match[2] or 0), int(match[4])
        part = int(match[3] == "attentions")
        if side == "mid":
            return f"middle_block.{1 if part else 2 * layer}"
        if side == "down":
            return f"input_blocks.{stride * block + layer + 1}.{part}"
        return f"output_blocks.{stride * block + layer}.{part}"

    return _LAYER.sub(rename, path)


def unet_state(unet: Any) -> dict[str, Tensor]:
    """A UNet's tensors under their original names, without a prefix."""
    return {unet_name(name, unet.config): tensor for name, tensor in unet.state_dict().items()}


def unet_name(name: str, config: Any) -> str:
    """Give a UNet's tensor, or a layer's path, its original name; config is the UNet's."""
    stride, ups = config.layers_per_block + 1, config.up_block_types
    if match := _SAMPLER.match(name):
        block = int(match[2])
        if match[1] == "down":
            return _SAMPLER.sub(f"input_blocks.{stride * (block + 1)}.0.op", name)
        entry = 1 + ups[block].startswith("CrossAttn")
        return _SAMPLER.sub(f"output_blocks.{stride * (block + 1) - 1}.{entry}.conv", name)
    renamed = block_path(_renamed(name, _UNET), stride - 1)
    return _renamed(renamed, _RESNET) if ".resnets." in name else renamed


def vae_state(vae: Any) -> dict[str, Tensor]:
    """An AutoencoderKL's tensors under their original names; its attention was 1×1 convolutions."""
    last = len(vae.config.up_block_types) - 1
    state = {}
    for name, tensor in vae.state_dict().items():
        is_projection = ".attentions." in name and tensor.ndim == 2
        state[_vae_name(name, last)] = tensor[:, :, None, None] if is_projection else tensor
    return state


def _vae_name(name: str, last: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", _renamed(name, _VAE))
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
    return re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name
    )


def clip_state(encoder: Any) -> dict[str, Tensor]:
    """A CLIP text encoder's tensors as transformers named them when the checkpoints were made."""
    tensors = _without_prefix(encoder)
    return {k if k.startswith("text_proj") else f"text_model.{k}": t for k, t in tensors.items()}


def open_clip_state(encoder: Any) -> dict[str, Tensor]:
    """A CLIP text encoder's tensors as open_clip holds them: q, k and v of a layer in one."""
    tensors = _without_prefix(encoder)
    state = {}
    for name, tensor in tensors.items():
        if name == "text_projection.weight":
            state["text_projection"] = tensor.T
        elif ".q_proj." in name:
            joined = _renamed(name, _OPEN_CLIP).replace("q_proj.", "in_proj_")
            parts = [tensors[name.replace(".q_proj.", f".{p}_proj.")] for p in "qkv"]
            state[joined] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", name):
            state[_renamed(name, _OPEN_CLIP)] = tensor
    return state


def _without_prefix(encoder: Any) -> dict[str, Tensor]:
    """transformers 5 dropped the "text_model." of a plain CLIPTextModel."""
    return {k.removeprefix("text_model."): t for k, t in encoder.state_dict().items()}


def _renamed(name: str, pairs: Mapping[str, str]) -> str:
    """Replace whole parts of a dotted name."""
    for ours, theirs in pairs.items():
        name = re.sub(rf"(^|\.){re.escape(ours)}(?=\.|$)", rf"\g<1>{theirs}", name)
    return name
