"""Train Toyland's scorer: pairs of drawn scenes and the autoencoder enter, scorer/ leaves."""

import random
from dataclasses import dataclass
from functools import partial

import open_clip
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from krona.toyland import world
from krona.toyland.optimizers import build_optimizers
from krona.toyland.pairs import NUM_VIEWS, ScenePairs, augment, subject_loss
from krona.toyland.schedule import warmup_stable_decay
from krona.toyland.scorer import IMAGE_PX, build_scorer, object_texts, place_texts
from krona.toyland.tokenizer import build_tokenizer
from krona.toyland.train_base import tokenize_with
from krona.toyland.trainer import Metrics, Trainer, TrainerConfig, autocast

IGNORED = -100
# One picture in sixteen is asked for its colour: each needs eight texts of its own.
COLOR_EVERY = 16


@dataclass(frozen=True, kw_only=True)
class ScorerTask:
    """What sets the scorer's result, apart from the number of steps."""

    seed: int
    batch: int
    device: torch.device
    peak_lr: float = 3e-3
    is_compiled: bool = True

    def run(self, trainer_config: TrainerConfig, pairs: ScenePairs) -> open_clip.CLIP:
        """Train to the configured step and return the model in evaluation mode."""
        torch.manual_seed(self.seed)
        model = build_scorer().to(self.device, memory_format=torch.channels_last)
        optimizers = build_optimizers([model], lr=self.peak_lr, weight_decay=0.05)
        trainer = Trainer(config=trainer_config, modules={"scorer": model}, optimizers=optimizers)
        batches = PairBatches(pairs=pairs, model=model, task=self, seed=self.seed + trainer.step)
        trainer.loop(
            batches.loss,
            warmup_stable_decay(warmup=200, steps=trainer_config.steps, decay_frac=0.4),
        )
        return model.eval()


def _embed(model: open_clip.CLIP, pictures: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    return model.encode_image(pictures), model.encode_text(token_ids)


class PairBatches:
    """Draws augmented pairs and computes their three losses."""

    def __init__(
        self, *, pairs: ScenePairs, model: open_clip.CLIP, task: ScorerTask, seed: int
    ) -> None:
        """Set up the random streams; a resumed run passes another seed."""
        self.pairs, self.model, self.task = pairs, model, task
        embed = partial(_embed, model)
        self.embed = torch.compile(embed) if task.is_compiled else embed
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.tokenize = tokenize_with(build_tokenizer())
        self.places = {place: number for number, place in enumerate(place_texts())}
        self.things = {thing.name: number for number, thing in enumerate(world.OBJECTS)}

    def loss(self) -> tuple[Tensor, Metrics]:
        """Return the sum of the caption, attribute and subject losses on one batch."""
        rows = torch.randint(
            0, len(self.pairs.facts), (self.task.batch // NUM_VIEWS,), generator=self.generator
        )
        facts = [fact for row in rows.tolist() for fact in self.pairs.facts[row]]
        pictures = self._pictures(rows).to(self.task.device)
        texts = self._texts(facts)
        token_ids = self.tokenize(texts).to(self.task.device)
        # Plain attention, as in the base: the fused one's bfloat16 backward is slow on CPUs.
        with autocast(self.task.device), sdpa_kernel(SDPBackend.MATH):
            image_embeds, text_embeds = self.embed(pictures, token_ids)
        image_embeds, text_embeds = (
            functional.normalize(embeds.float(), dim=-1) for embeds in (image_embeds, text_embeds)
        )
        scale = self.model.logit_scale.exp().clamp(max=100)
        losses = self._losses(image_embeds, text_embeds, scale, facts)
        return sum(losses.values(), torch.zeros(())), {
            name: value.item() for name, value in losses.items()
        }

    def _pictures(self, rows: Tensor) -> Tensor:
        return augment(self.pairs.pictures[rows].flatten(0, 1), IMAGE_PX, self.generator)

    def _texts(self, facts: list[world.Facts]) -> list[str]:
        """Return captions, then object, place and colour texts."""
        captions = [world.caption(fact, self.rng) for fact in facts]
        colored = [
            world.phrase(noun=fact.thing.name, color=color)
            for fact in facts[::COLOR_EVERY]
            for color in world.COLORS
        ]
        return captions + object_texts() + place_texts() + colored

    def _losses(
        self, images: Tensor, texts: Tensor, scale: Tensor, facts: list[world.Facts]
    ) -> dict[str, Tensor]:
        sizes = [len(facts), len(self.things), len(self.places), texts.shape[0]]
        sizes[3] -= sum(sizes[:3])
        captions, things, places, colored = torch.split(texts, sizes)
        of_thing = torch.tensor([self.things[fact.thing.name] for fact in facts])
        of_place = torch.tensor([self.places.get(fact.place, IGNORED) for fact in facts])
        return {
            "caption": caption_loss(scale * images @ captions.T),
            "object": functional.cross_entropy(scale * images @ things.T, of_thing),
            "place": functional.cross_entropy(
                scale * images @ places.T, of_place, ignore_index=IGNORED
            ),
            "color": self._color_loss(images[::COLOR_EVERY], colored, scale, facts[::COLOR_EVERY]),
            "subject": subject_loss(images),
        }

    @staticmethod
    def _color_loss(
        images: Tensor, colored: Tensor, scale: Tensor, facts: list[world.Facts]
    ) -> Tensor:
        choices = colored.view(len(facts), len(world.COLORS), -1)
        logits = scale * torch.einsum("nd,ncd->nc", images, choices)
        order = list(world.COLORS)
        target = torch.tensor(
            [order.index(fact.color) if fact.color else IGNORED for fact in facts]
        )
        if bool((target == IGNORED).all()):
            return logits.sum() * 0
        return functional.cross_entropy(logits, target, ignore_index=IGNORED)


def caption_loss(logits: Tensor) -> Tensor:
    """CLIP's loss on (num, num) logits whose diagonal holds the true pairs."""
    target = torch.arange(len(logits))
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2
