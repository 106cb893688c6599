"""Train the self-supervised encoder: pairs of drawn scenes enter, encoder/ leaves.

It sees no captions and no names: two pictures of one drawn subject at two places are alike, all
other pictures of the batch are not (Chen et al. 2020, SimCLR's loss).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import ViTModel

from krona.toyland.encoder import IMAGE_PX, build_encoder
from krona.toyland.pairs import NUM_VIEWS, ScenePairs, augment, subject_loss
from krona.toyland.schedule import warmup_stable_decay
from krona.toyland.trainer import Metrics, Trainer, TrainerConfig, autocast

# DINO's preprocessing, which scoring applies: pixels of 0..1 by ImageNet's statistics.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class EncoderTask:
    """What sets the encoder's result, apart from the number of steps."""

    seed: int
    batch: int
    device: torch.device
    peak_lr: float = 1e-3
    is_compiled: bool = True

    def run(self, trainer_config: TrainerConfig, pairs: ScenePairs) -> ViTModel:
        """Train to the configured step and return the model in evaluation mode."""
        torch.manual_seed(self.seed)
        model = build_encoder().to(self.device).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), self.peak_lr, betas=(0.9, 0.98), weight_decay=0.05
        )
        trainer = Trainer(config=trainer_config, modules={"encoder": model}, optimizers=[optimizer])
        generator = torch.Generator().manual_seed(self.seed + trainer.step)
        forward = torch.compile(model) if self.is_compiled else model
        schedule = warmup_stable_decay(warmup=200, steps=trainer_config.steps, decay_frac=0.5)
        trainer.loop(lambda: self.loss(forward, pairs, generator), schedule)
        return model.eval()

    def loss(
        self, forward: ViTModel, pairs: ScenePairs, generator: torch.Generator
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of one batch of pairs on the class token."""
        rows = torch.randint(
            0, len(pairs.pictures), (self.batch // NUM_VIEWS,), generator=generator
        )
        pictures = augment(pairs.pictures[rows].flatten(0, 1), IMAGE_PX, generator)
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        normalised = ((pictures + 1) / 2 - mean) / std
        with autocast(self.device), sdpa_kernel(SDPBackend.MATH):
            tokens = forward(normalised.to(self.device)).last_hidden_state
        loss = subject_loss(functional.normalize(tokens[:, 0].float(), dim=-1))
        return loss, {}
