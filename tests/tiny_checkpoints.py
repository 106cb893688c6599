"""Random checkpoints shaped like SD 1.5, SD 2 (v-prediction) and SDXL, small enough for seconds."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_WIDTH = 32
TEXT_WIDTH_2 = 64
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _tokenizer() -> CLIPTokenizer:
    """Letters, and the two special tokens: every word splits into its letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=24)


def _text_encoder(tokenizer: CLIPTokenizer, *, width: int = TEXT_WIDTH) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModel if width == TEXT_WIDTH else CLIPTextModelWithProjection)(config)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=16,
    )


def _unet(**settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(64, 128),
        norm_num_groups=16,
        **settings,
    )


def _save(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def _save_sd(folder: Path, unet: UNet2DConditionModel, scheduler: Any) -> Path:
    tokenizer = _tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _save(pipeline, folder)


def save_sd(folder: Path) -> Path:
    """SD 1.5's shape: epsilon, PNDM, an attention-free last level."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = _unet(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
        )
        scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
        return _save_sd(folder, unet, scheduler)


def save_sd2(folder: Path) -> Path:
    """SD 2's shape: v-prediction with zero terminal SNR, linear projections, heads per level."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = _unet(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
        )
        scheduler = DDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            steps_offset=1,
            timestep_spacing="trailing",
            clip_sample=False,
        )
        return _save_sd(folder, unet, scheduler)


def save_sdxl(folder: Path) -> Path:
    """SDXL's shape: two text encoders, added conditions, two transformer blocks in a layer."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tokenizer = _tokenizer()
        unet = _unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=TEXT_WIDTH + TEXT_WIDTH_2,
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH_2,
        )
        pipeline = StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=_text_encoder(tokenizer),
            text_encoder_2=_text_encoder(tokenizer, width=TEXT_WIDTH_2),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
            add_watermarker=False,
        )
        return _save(pipeline, folder)
