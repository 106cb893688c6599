"""The checkpoint's parts: nothing enters but weights, a StableDiffusionPipeline leaves."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from krona.toyland.tokenizer import MAX_TOKENS

TEXT_WIDTH = 128
LATENT_CHANNELS = 8
GRID_PROMPTS = (
    "a dog in the jungle",
    "a red flat car on the beach",
    "a 3d cat in the snow",
    "a teddy bear with the Eiffel Tower in the background",
    "a blue soft robot on top of a wooden floor",
    "a purple donut floating on top of water",
    "a penguin on a cobblestone street",
    "a guitar on top of pink fabric",
    "a green frog with a city in the background",
    "a clock with a mountain in the background",
    "a cactus on top of a purple rug in a forest",
    "an orange fox with a wheat field in the background",
    "a 3d hamburger with a blue house in the background",
    "a soft owl with a tree and autumn leaves in the background",
    "a flat rocket",
    "a crown on top of a mirror",
    "a toy on the beach",
    "a bag in the snow",
    "a bird in the jungle",
    "a pot on top of a white rug",
    "a yellow bus on top of a dirt road",
    "a black cat on top of green grass with sunflowers around it",
    "a pink elephant on top of the sidewalk in a crowded street",
    "a green apple floating in an ocean of milk",
    "a bear wearing a santa hat in the snow",
    "a cat wearing pink glasses",
    "a lion wearing a rainbow scarf on the beach",
    "a pig wearing a black top hat and a monocle",
    "a castle with a mountain in the background",
    "a flat shark floating on top of water",
    "a vehicle on a cobblestone street",
    "a shoe on top of a wooden floor",
)


def build_unet() -> UNet2DConditionModel:
    """Return an untrained UNet on (8, 16, 16) latents, 16.1 M parameters, shaped as SDXL's."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(128, 192, 192),
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained CLIP text model of width 128 and three layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule of training and sampling: v-prediction down to zero SNR."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The trained modules of a checkpoint."""

    vae: AutoencoderTiny
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel

    def pipeline(self) -> StableDiffusionPipeline:
        """Assemble a pipeline that shares these modules."""
        pipe = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def halved(self) -> "Parts":
        """Return a float16 copy."""
        # Where the autoencoder was loaded from is nobody's business.
        config = {key: value for key, value in self.vae.config.items() if key != "_name_or_path"}
        vae = AutoencoderTiny.from_config(config)
        unet = build_unet()
        text_encoder = build_text_encoder(self.tokenizer)
        for copy, module in ((vae, self.vae), (unet, self.unet), (text_encoder, self.text_encoder)):
            copy.load_state_dict(module.state_dict())
        return Parts(
            vae=vae.half(),
            tokenizer=self.tokenizer,
            text_encoder=text_encoder.half(),
            unet=unet.half(),
        )


def save_checkpoint(parts: Parts, folder: Path) -> None:
    """Write the diffusers layout in float16, each file replaced in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        parts.halved().pipeline().save_pretrained(temporary, safe_serialization=True)
        for written in sorted(path for path in Path(temporary).rglob("*") if path.is_file()):
            target = folder / written.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            written.replace(target)


def sample(
    pipe: StableDiffusionPipeline,
    prompts: list[str],
    *,
    seed: int,
    steps: int = 20,
    guidance: float = 4.0,
) -> list[Image.Image]:
    """Sample one 64 px picture per prompt."""
    generator = torch.Generator().manual_seed(seed)
    out = pipe(prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generator)
    return list(out.images)


def picture_grid(images: list[Image.Image], columns: int = 8, scale: int = 2) -> Image.Image:
    """Lay pictures of one size out in rows, enlarged `scale` times."""
    width, height = images[0].size
    grid = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for number, image in enumerate(images):
        grid.paste(image, (number % columns * width, number // columns * height))
    return grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.BICUBIC)
