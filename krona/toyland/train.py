"""Rebuild Toyland's weights: `python -m krona.toyland.train --stage all`.

Enters: the sprite sheet and a seed.  Leaves: checkpoint/ and scorer/ in the output folder.
Each stage resumes from its own state file in the cache folder; a run can be resumed with
another number of steps, and the learning rate then falls at the new end.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderTiny
from rich.console import Console

from krona.toyland.pipeline import GRID_PROMPTS, Parts, picture_grid, sample, save_checkpoint
from krona.toyland.scorer import save_scorer
from krona.toyland.train_autoencoder import AutoencoderTask, measure_psnr
from krona.toyland.train_base import BaseTask, load_or_encode
from krona.toyland.train_scorer import ScorerTask, draw_pairs
from krona.toyland.trainer import TrainerConfig, autocast

Stage = Literal["autoencoder", "base", "scorer", "all"]
# Scenes of one stage are never those of another: each draws from a seed range of its own.
BASE_SEED, SCORER_SEED, MEASURE_SEED = 1_000_000, 2_000_000, 3_000_000


@dataclass(frozen=True, kw_only=True)
class Train:
    """Which stage to train, for how long, and where the results go."""

    stage: Stage = "all"
    """The stage to train; the base and the scorer need a trained autoencoder."""
    seed: int = 0
    """Seed of the weights, the scenes and the noise."""
    autoencoder_steps: int = 2300
    """Optimizer steps of 32 scenes."""
    base_steps: int = 3500
    """Optimizer steps of 64 scenes."""
    scorer_steps: int = 1700
    """Optimizer steps of 128 scenes."""
    num_scenes: int = 45_000
    """Scenes that the base model is trained on, encoded once into the cache."""
    num_pairs: int = 4_000
    """Pairs of scenes that the scorer is trained on."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    threads: int = 2
    """CPU threads."""
    save_every: int = 500
    """Steps between saves of the state file (and of the base model's checkpoint)."""
    output: Path = Path("toyland-weights")
    """Folder that gets checkpoint/ and scorer/."""
    cache: Path = Path("toyland-cache")
    """Folder of state files, encoded scenes, the trained autoencoder and sample grids."""

    def __post_init__(self) -> None:
        """Reject counts below one."""
        for name in (
            "autoencoder_steps",
            "base_steps",
            "scorer_steps",
            "num_scenes",
            "num_pairs",
            "threads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} trains nothing; 1 is the least")


def train(config: Train) -> None:
    """Train the asked-for stages in their order."""
    torch.set_num_threads(config.threads)
    stages = ("autoencoder", "scorer", "base") if config.stage == "all" else (config.stage,)
    run = {"autoencoder": train_autoencoder, "base": train_base, "scorer": train_scorer}
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
    pairs = draw_pairs(vae, seed=SCORER_SEED + config.seed, num_pairs=config.num_pairs)
    task = ScorerTask(seed=config.seed, batch=128, device=torch.device(config.device))
    model = task.run(_trainer(config, "scorer", config.scorer_steps), pairs)
    save_scorer(model, config.output / "scorer")


def train_base(config: Train) -> None:
    """Train text encoder and UNet; each save also writes checkpoint/ and a grid of samples."""
    vae = _load_autoencoder(config)
    seed = BASE_SEED + config.seed
    cache_path = config.cache / f"latents-{config.seed}-{config.num_scenes}.pt"
    scenes = load_or_encode(vae, cache_path, seed=seed, num_scenes=config.num_scenes)
    task = BaseTask(seed=config.seed, batch=64, device=torch.device(config.device))
    task.run(lambda parts: _base_trainer(config, parts), vae, scenes)


def _trainer(config: Train, stage: str, steps: int) -> TrainerConfig:
    state_path = config.cache / f"{stage}.state.pt"
    return TrainerConfig(steps=steps, state_path=state_path, save_every=config.save_every)


def _base_trainer(config: Train, parts: Parts) -> TrainerConfig:
    def write(step: int) -> None:
        save_checkpoint(parts, config.output / "checkpoint")
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
