"""Random checkpoints shaped like SD 1.5, SD 2 (v-prediction) and SDXL, small enough for seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from trained import save_random
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from krona.adapter.inject import attention_linears
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base, load_base
from krona.storage.cache import Cache

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


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
        return _save_sd(tmp_path_factory.mktemp("tiny_sd"), unet, scheduler)


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
        return _save_sd(tmp_path_factory.mktemp("tiny_sd2"), unet, scheduler)


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
        return _save(pipeline, tmp_path_factory.mktemp("tiny_sdxl"))


@pytest.fixture(scope="session")
def sd(tiny_sd: Path) -> Base:
    """The SD 1.5-shaped base; eject what you inject."""
    return load_base(tiny_sd)


@pytest.fixture(scope="session")
def sd2(tiny_sd2: Path) -> Base:
    """The SD 2-shaped base; eject what you inject."""
    return load_base(tiny_sd2)


@pytest.fixture(scope="session")
def sdxl(tiny_sdxl: Path) -> Base:
    """The SDXL-shaped base; eject what you inject."""
    return load_base(tiny_sdxl)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., tuple[Path, Tensor]]:
    """Save an adapter of random factors; return its file and its base's prediction with it."""

    def save(base: Base, config: AdapterConfig, **changes: Any) -> tuple[Path, Tensor]:
        path = tmp_path / "adapter.safetensors"
        return path, save_random(base, config, path, **changes)

    return save


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def subject_dir(tmp_path: Path) -> Path:
    """A user's folder: three photos of 20x24 px and a subject.toml."""
    folder = tmp_path / "rex"
    folder.mkdir()
    for i, color in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (20, 24), color).save(folder / f"{i}.png")
    (folder / "subject.toml").write_text('class = "dog"\nprompts = ["a {}", "a {} in the snow"]\n')
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Any:
    """Save what DiffuseKronA's code saves, with A of shape (8, 4)."""

    def save(base: Base, **changes: Tensor) -> Path:
        tensors = {}
        generator = torch.Generator().manual_seed(5)
        for path, layer in attention_linears(base.unet).items():
            attention, _, end = path.rpartition(".to_")
            stem = f"unet.{attention}.processor.to_{end.removesuffix('.0')}_lora"
            b_shape = layer.out_features // 8, layer.in_features // 4
            tensors[f"{stem}.down.weight"] = 0.2 * torch.randn(4, 8, generator=generator)
            tensors[f"{stem}.up.weight"] = 0.2 * torch.randn(b_shape, generator=generator)
        path = tmp_path / "pytorch_lora_weights.safetensors"
        save_file(tensors | changes, path)
        return path

    return save
