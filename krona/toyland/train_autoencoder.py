"""Train Toyland's autoencoder: drawn scenes enter, checkpoint/vae leaves."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional

from krona.toyland.scenes import Painter
from krona.toyland.schedule import warmup_stable_decay
from krona.toyland.trainer import Trainer, TrainerConfig, autocast, to_pixels

Rebuild = Callable[[Tensor], tuple[Tensor, Tensor]]
LATENT_CHANNELS = 8
WIDTH = 48
# DecoderTiny squashes its input by 3 tanh(x / 3); unit deviation keeps latents in its linear part.
LATENT_PENALTY = 0.02


def build_autoencoder() -> AutoencoderTiny:
    """Return an untrained AutoencoderTiny: 64 px in, (8, 16, 16) latents, 0.7 M parameters."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 3,
        decoder_block_out_channels=(WIDTH,) * 3,
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
    )


def latent_penalty(latents: Tensor) -> Tensor:
    """Return how far each channel of (batch, channels, h, w) is from zero mean, unit deviation."""
    flat = latents.float().transpose(0, 1).flatten(1)
    return (flat.mean(1) ** 2 + (flat.std(1) - 1) ** 2).mean()


def reconstruction_loss(pictures: Tensor, rebuilt: Tensor) -> Tensor:
    """Mean squared error plus a tenth of the mean absolute error, both in -1..1."""
    return functional.mse_loss(rebuilt, pictures) + 0.1 * functional.l1_loss(rebuilt, pictures)


def _rebuild(model: AutoencoderTiny, pictures: Tensor) -> tuple[Tensor, Tensor]:
    latents = model.encoder(pictures)
    return latents, model.decoder(latents)


@dataclass(frozen=True, kw_only=True)
class AutoencoderTask:
    """What the trainer needs to train the autoencoder; batch and seed set the result."""

    seed: int
    batch: int
    device: torch.device
    peak_lr: float = 2e-3
    is_compiled: bool = True

    def run(self, trainer_config: TrainerConfig) -> AutoencoderTiny:
        """Train to the configured step and return the model in evaluation mode."""
        torch.manual_seed(self.seed)
        model = build_autoencoder().to(self.device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), self.peak_lr, betas=(0.9, 0.99))
        trainer = Trainer(config=trainer_config, modules={"vae": model}, optimizers=[optimizer])
        schedule = warmup_stable_decay(warmup=100, steps=trainer_config.steps, decay_frac=0.3)
        # A resumed run draws scenes that the earlier part has not seen.
        painter = Painter(seed=self.seed + trainer.step)
        rebuild = partial(_rebuild, model)
        forward = torch.compile(rebuild) if self.is_compiled else rebuild
        trainer.loop(lambda: self.loss(forward, painter), schedule)
        return model.eval()

    def loss(self, forward: Rebuild, painter: Painter) -> tuple[Tensor, dict[str, float]]:
        """Return the loss on a fresh batch and its PSNR in dB."""
        pictures = to_pixels([painter.scene() for _ in range(self.batch)], self.device)
        with autocast(self.device):
            latents, rebuilt = forward(pictures)
        rebuilt = rebuilt.float()
        loss = reconstruction_loss(pictures, rebuilt) + LATENT_PENALTY * latent_penalty(latents)
        return loss, {"psnr_db": psnr_db(pictures, rebuilt)}


def psnr_db(pictures: Tensor, rebuilt: Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in -1..1, whose peak-to-peak signal is 2."""
    mse = functional.mse_loss(rebuilt.detach().clamp(-1, 1), pictures)
    return float(10 * torch.log10(4 / mse))


@torch.no_grad()
def measure_psnr(model: AutoencoderTiny, *, seed: int, num_scenes: int = 256) -> float:
    """Return the PSNR in dB on scenes of an unseen seed, in float32."""
    rng = random.Random(seed)
    painter = Painter(seed=rng.randrange(2**31), num_backgrounds=8)
    device = next(model.parameters()).device
    pictures = to_pixels([painter.scene() for _ in range(num_scenes)], device)
    return psnr_db(pictures, model.decoder(model.encoder(pictures)).float())


def save_autoencoder(model: AutoencoderTiny, folder: Path) -> None:
    """Write the model as float16 safetensors into folder."""
    copy = build_autoencoder()
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)
