"""Train text encoder and UNet together: an autoencoder enters, checkpoint/ leaves."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from krona.toyland import world
from krona.toyland.optimizers import build_optimizers
from krona.toyland.pipeline import Parts, build_scheduler, build_text_encoder, build_unet
from krona.toyland.scenes import Painter
from krona.toyland.schedule import Schedule, warmup_stable_decay
from krona.toyland.tokenizer import build_tokenizer
from krona.toyland.trainer import Metrics, Trainer, TrainerConfig, autocast, to_pixels

EMPTY_CAPTION_FRAC = 0.1
NUM_TIMESTEPS = 1000


@dataclass(frozen=True, kw_only=True)
class EncodedScenes:
    """Latents (num, 8, 16, 16) in float16 and the facts that each of them shows."""

    latents: Tensor
    facts: list[world.Facts]


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderTiny, *, seed: int, num_scenes: int, batch: int = 64
) -> EncodedScenes:
    """Draw and encode num_scenes scenes; the same seed draws the same scenes."""
    device = next(vae.parameters()).device
    painter = Painter(seed=seed)
    latents, facts = [], []
    for start in range(0, num_scenes, batch):
        scenes = [painter.scene() for _ in range(min(batch, num_scenes - start))]
        with autocast(device):
            latents.append(vae.encoder(to_pixels(scenes, device)).half().cpu())
        facts += [scene.facts for scene in scenes]
    return EncodedScenes(latents=torch.cat(latents), facts=facts)


def load_or_encode(
    vae: AutoencoderTiny, cache_path: Path, *, seed: int, num_scenes: int
) -> EncodedScenes:
    """Return the cached latents, encoding them first if the cache file is missing."""
    if not cache_path.exists():
        encoded = encode_scenes(vae, seed=seed, num_scenes=num_scenes)
        told = [
            (world.OBJECTS.index(f.thing), f.style, f.place, f.color, f.accessory)
            for f in encoded.facts
        ]
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"latents": encoded.latents, "facts": told}, cache_path)
        return encoded
    saved = torch.load(cache_path, weights_only=True)
    facts = [
        world.Facts(
            thing=world.OBJECTS[number], style=style, place=place, color=color, accessory=accessory
        )
        for number, style, place, color, accessory in saved["facts"]
    ]
    return EncodedScenes(latents=saved["latents"], facts=facts)


def draw_timesteps(num: int, generator: torch.Generator) -> Tensor:
    """Draw timesteps, half of them evenly, half around the noise levels where shape is decided."""
    even = torch.rand(num, generator=generator)
    shaping = torch.sigmoid(0.6 + torch.randn(num, generator=generator))
    pick = torch.rand(num, generator=generator) < 0.5
    return (torch.where(pick, even, shaping) * NUM_TIMESTEPS).long().clamp(max=NUM_TIMESTEPS - 1)


def tokenize_with(tokenizer: CLIPTokenizer) -> Callable[[list[str]], Tensor]:
    """Return a function from captions to (num, 24) token ids that remembers what it has seen."""

    @cache
    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, padding="max_length", truncation=True).input_ids
        return ids

    return lambda texts: torch.tensor([ids_of(text) for text in texts])


@dataclass(frozen=True, kw_only=True)
class BaseTask:
    """What sets the base model's result, apart from the number of steps."""

    seed: int
    batch: int
    device: torch.device
    peak_lr: float = 1e-3
    decay_frac: float = 0.45
    is_compiled: bool = True
    init: Path | None = None

    def run(
        self,
        trainer_config: Callable[[Parts], TrainerConfig],
        vae: AutoencoderTiny,
        scenes: EncodedScenes,
    ) -> Parts:
        """Train to the configured step; the parts returned hold the averaged weights.

        Args:
            trainer_config: gets the live parts, so that saves can write them out.
        """
        torch.manual_seed(self.seed)
        parts = self.untrained(vae)
        config = trainer_config(parts)
        modules = {"unet": parts.unet, "text_encoder": parts.text_encoder}
        optimizers = build_optimizers(modules.values(), lr=self.peak_lr, weight_decay=0.01)
        trainer = Trainer(config=config, modules=modules, optimizers=optimizers)
        batches = Batches(scenes=scenes, parts=parts, task=self, seed=self.seed + trainer.step)
        trainer.loop(batches.loss, self.schedule(config.steps))
        return parts

    def schedule(self, steps: int) -> Schedule:
        """Return the learning rate's course over so many steps."""
        return warmup_stable_decay(warmup=300, steps=steps, decay_frac=self.decay_frac)

    def untrained(self, vae: AutoencoderTiny) -> Parts:
        """Return the parts before the first step: random ones, or those in `init`."""
        tokenizer = build_tokenizer()
        unet = build_unet().to(self.device, memory_format=torch.channels_last)
        # Plain attention: scaled_dot_product_attention's bfloat16 backward is slow on CPUs.
        unet.set_attn_processor(AttnProcessor())
        text_encoder = build_text_encoder(tokenizer).to(self.device)
        if self.init is not None:
            for name, module in (("unet", unet), ("text_encoder", text_encoder)):
                (weights,) = (self.init / name).glob("*.safetensors")
                module.load_state_dict(load_file(weights))
        return Parts(vae=vae, tokenizer=tokenizer, text_encoder=text_encoder, unet=unet)


class Batches:
    """Draws batches of latents, captions and noise, and computes their loss."""

    def __init__(self, *, scenes: EncodedScenes, parts: Parts, task: BaseTask, seed: int) -> None:
        """Set up the random streams; a resumed run passes another seed."""
        self.scenes, self.task = scenes, task
        self.text_encoder: CLIPTextModel = parts.text_encoder
        self.unet: UNet2DConditionModel = (
            torch.compile(parts.unet) if task.is_compiled else parts.unet
        )
        self.scheduler: DDIMScheduler = build_scheduler()
        self.tokenize = tokenize_with(parts.tokenizer)
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def captions(self, rows: list[int]) -> list[str]:
        """Return a caption for each scene, every tenth one empty."""
        return [
            ""
            if self.rng.random() < EMPTY_CAPTION_FRAC
            else world.caption(self.scenes.facts[row], self.rng)
            for row in rows
        ]

    def loss(self) -> tuple[Tensor, Metrics]:
        """Return the mean squared error of the predicted velocity on one batch."""
        rows = torch.randint(
            0, len(self.scenes.facts), (self.task.batch,), generator=self.generator
        )
        latents = self.scenes.latents[rows].float()
        noise = torch.randn(latents.shape, generator=self.generator)
        timesteps = draw_timesteps(self.task.batch, self.generator)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        velocity = self.scheduler.get_velocity(latents, noise, timesteps)
        token_ids = self.tokenize(self.captions(rows.tolist())).to(self.task.device)
        device = self.task.device
        with autocast(device):
            prompt_embeds = self.text_encoder(token_ids)[0]
            noisy = noisy.to(device).contiguous(memory_format=torch.channels_last)
            predicted = self.unet(noisy, timesteps.to(device), prompt_embeds).sample
        return torch.nn.functional.mse_loss(predicted.float(), velocity.to(device)), {}
