"""Rebuild Toyland's weights: `python -m krona.toyland.train --stage all`.

Enters: the sprite sheet and a seed.  Leaves: checkpoint/, scorer/ and encoder/ in the output
folder, each with its SHA256SUMS.
Each stage resumes from its own state file in the cache folder; a run can be resumed with
another number of steps, and the learning rate then falls at the new end.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderTiny
from rich.console import Console

from krona.storage.checksums import write_checksums
from krona.toyland.encoder import save_encoder
from krona.toyland.pairs import draw_pairs
from krona.toyland.pipeline import GRID_PROMPTS, Parts, picture_grid, sample, save_checkpoint
from krona.toyland.scorer import save_scorer
from krona.toyland.train_autoencoder import AutoencoderTask, measure_psnr
from krona.toyland.train_base import BaseTask, load_or_encode
from krona.toyland.train_encoder import EncoderTask
from krona.toyland.train_scorer import ScorerTask
from krona.toyland.trainer import TrainerConfig, autocast

Stage = Literal["autoencoder", "base", "scorer", "encoder", "all"]
# Scenes of one stage are never those of another: each draws from a seed range of its own.
BASE_SEED, SCORER_SEED, MEASURE_SEED, ENCODER_SEED = 1_000_000, 2_000_000, 3_000_000, 4_000_000


@dataclass(frozen=True, kw_only=True)
class Train:
    """Which stage to train, for how long, and where the results go."""

    stage: Stage = "all"
    """The stage to train; the base and the scorer need a trained autoencoder."""
    seed: int = 0
    """Seed of the weights, the scenes and the noise."""
    autoencoder_steps: int = 2300
    """Optimizer steps of 32 scenes."""
    base_steps: int = 1900
    """Optimizer steps of 96 scenes."""
    scorer_steps: int = 2500
    """Optimizer steps of 128 scenes."""
    encoder_steps: int = 1000
    """Optimizer steps of 128 scenes."""
    init: Path | None = None
    """Folder of a trained checkpoint/ that the base starts from; the committed one or another."""
    num_scenes: int = 60_000
    """Scenes that the base model is trained on, encoded once into the cache."""
    num_pairs: int = 12_000
    """Pairs of scenes that the scorer, and others that the encoder, is trained on."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    threads: int = 2
    """CPU threads."""
    save_every: int = 500
    """Steps between saves of the state file (and of the base model's checkpoint)."""
    output: Path = Path("toyland-weights")
    """Folder that gets checkpoint/, scorer/ and encoder/."""
    cache: Path = Path("toyland-cache")
    """Folder of state files, encoded scenes, the trained autoencoder and sample grids."""

    def __post_init__(self) -> None:
        """Reject counts below one and a start that is not there."""
        for name in (
            "autoencoder_steps",
            "base_steps",
            "scorer_steps",
            "encoder_steps",
            "num_scenes",
            "num_pairs",
            "threads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} trains nothing; 1 is the least")
        if self.init is not None and not (self.init / "unet").is_dir():
            raise FileNotFoundError(f"no checkpoint in {self.init}: it has no unet/")


def train(config: Train) -> None:
    """Train the asked-for stages in their order."""
    torch.set_num_threads(config.threads)
    run = {
        "autoencoder": train_autoencoder,
        "scorer": train_scorer,
        "encoder": train_encoder,
        "base": train_base,
    }
    stages = run if config.stage == "all" else (config.stage,)
    for stage in stages:
        Console().print(f"[bold]{stage}[/bold]")
        run[stage](config)


def train_autoencoder(config: Train) -> None:
    """Train the autoencoder and keep it in the cache in float32."""
    task = AutoencoderTask(seed=config.seed, batch=32, device=torch.device(config.device))
    model = task.run(_trainer(config, "autoencoder", config.autoencoder_steps))
    psnr = measure_psnr(model, seed=MEASURE_SEED + config.seed)
    Console().print(f"PSNR on unseen scenes: {psnr:.2f} dB")
    model.save_pretrained(config.cache / "vae")


def train_scorer(config: Train) -> None:
    """Train the scorer and write it."""
    vae = _load_autoencoder(config)
    seed = SCORER_SEED + config.seed
    pairs = draw_pairs(vae, seed=seed, num_pairs=config.num_pairs)
    task = ScorerTask(seed=config.seed, batch=128, device=torch.device(config.device))
    model = task.run(_trainer(config, "scorer", config.scorer_steps), pairs)
    save_scorer(model, config.output / "scorer")
    write_checksums(config.output / "scorer")


def train_encoder(config: Train) -> None:
    """Train the self-supervised encoder and write it."""
    vae = _load_autoencoder(config)
    seed = ENCODER_SEED + config.seed
    pairs = draw_pairs(vae, seed=seed, num_pairs=config.num_pairs)
    task = EncoderTask(seed=config.seed, batch=128, device=torch.device(config.device))
    model = task.run(_trainer(config, "encoder", config.encoder_steps), pairs)
    save_encoder(model, config.output / "encoder")
    write_checksums(config.output / "encoder")


def train_base(config: Train) -> None:
    """Train text encoder and UNet; each save also writes checkpoint/ and a grid of samples."""
    vae = _load_autoencoder(config)
    seed = BASE_SEED + config.seed
    cache_path = config.cache / f"latents-{config.seed}-{config.num_scenes}.pt"
    scenes = load_or_encode(vae, cache_path, seed=seed, num_scenes=config.num_scenes)
    task = BaseTask(
        seed=config.seed, batch=96, device=torch.device(config.device), init=config.init
    )
    task.run(lambda parts: _base_trainer(config, parts), vae, scenes)


def _trainer(config: Train, stage: str, steps: int) -> TrainerConfig:
    state_path = config.cache / f"{stage}.state.pt"
    return TrainerConfig(steps=steps, state_path=state_path, save_every=config.save_every)


def _base_trainer(config: Train, parts: Parts) -> TrainerConfig:
    def write(step: int) -> None:
        save_checkpoint(parts, config.output / "checkpoint")
        write_checksums(config.output / "checkpoint")
        write_grid(parts, config.cache / "grids" / f"{step:06d}.png", torch.device(config.device))

    return TrainerConfig(
        steps=config.base_steps,
        state_path=config.cache / "base.state.pt",
        save_every=config.save_every,
        ema_decay=0.999,
        on_save=write,
    )


def write_grid(parts: Parts, path: Path, device: torch.device) -> None:
    """Sample the fixed prompts and write them as one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for module in (parts.unet, parts.text_encoder):
        module.eval()
    with autocast(device):
        picture_grid(sample(parts.pipeline(), list(GRID_PROMPTS), seed=0)).save(path)
    for module in (parts.unet, parts.text_encoder):
        module.train()


def _load_autoencoder(config: Train) -> AutoencoderTiny:
    folder = config.cache / "vae"
    if not folder.exists():
        raise FileNotFoundError(f"no autoencoder in {folder}; run --stage autoencoder first")
    return AutoencoderTiny.from_pretrained(folder, dtype=torch.float32).to(config.device).eval()


if __name__ == "__main__":
    import tyro

    train(tyro.cli(Train))
