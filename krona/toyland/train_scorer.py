"""Train Toyland's scorer: pairs of drawn scenes and the autoencoder enter, scorer/ leaves."""

import random
from dataclasses import dataclass, replace
from functools import partial

import open_clip
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from krona.toyland import world
from krona.toyland.scenes import SIZE_PX, Painter, pixels
from krona.toyland.schedule import warmup_stable_decay
from krona.toyland.scorer import IMAGE_PX, build_scorer, object_texts, place_texts
from krona.toyland.tokenizer import build_tokenizer
from krona.toyland.train_base import tokenize_with
from krona.toyland.trainer import Metrics, Trainer, TrainerConfig, autocast

NUM_VIEWS = 2
SUBJECT_TEMPERATURE = 0.1
IGNORED = -100
# One picture in sixteen is asked for its colour: each needs eight texts of its own.
COLOR_EVERY = 16


@dataclass(frozen=True, kw_only=True)
class ScenePairs:
    """Two pictures of each drawn subject at different places.

    pictures: (pairs, 2, 3, 64, 64) uint8, two fifths of them rebuilt by the autoencoder.
    facts: one pair of facts per row.
    """

    pictures: Tensor
    facts: list[tuple[world.Facts, world.Facts]]


def pair_facts(rng: random.Random) -> tuple[world.Facts, world.Facts]:
    """Draw one subject (sprite and tint) at two different places."""
    facts = world.random_facts(rng, tinted_frac=0.35)
    other = rng.choice([place for place in world.PLACES if place != facts.place])
    return facts, replace(facts, place=other)


@torch.no_grad()
def rebuild(vae: AutoencoderTiny, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return (num, 3, 64, 64) uint8 pictures as a sampler would blur and smear them."""
    device = next(vae.parameters()).device
    with autocast(device):
        latents = vae.encoder(pictures.to(device).float().div(127.5).sub(1)).float()
        strength = 0.5 * torch.rand(len(latents), 1, 1, 1, generator=generator)
        noise = strength * torch.randn(latents.shape, generator=generator)
        rebuilt = vae.decoder(latents + noise.to(device)).float()
    smeared: Tensor = rebuilt.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).cpu()
    return smeared


def draw_pairs(vae: AutoencoderTiny, *, seed: int, num_pairs: int, chunk: int = 64) -> ScenePairs:
    """Draw num_pairs pairs; two fifths of each chunk of pictures go through the autoencoder."""
    painter, generator = Painter(seed=seed), torch.Generator().manual_seed(seed)
    facts = [pair_facts(painter.rng) for _ in range(num_pairs)]
    drawn = []
    for start in range(0, num_pairs, chunk):
        scenes = [painter.scene(fact) for pair in facts[start : start + chunk] for fact in pair]
        pictures = torch.from_numpy(pixels(scenes)).permute(0, 3, 1, 2).contiguous()
        chosen = torch.randperm(len(pictures), generator=generator)[: int(0.4 * len(pictures))]
        pictures[chosen] = rebuild(vae, pictures[chosen], generator)
        drawn.append(pictures)
    return ScenePairs(
        pictures=torch.cat(drawn).view(num_pairs, NUM_VIEWS, 3, SIZE_PX, SIZE_PX), facts=facts
    )


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Crop, sometimes blur, enlarge, and shift the light of (num, 3, 64, 64) uint8; hue stays.

    Returns: (num, 3, IMAGE_PX, IMAGE_PX) float32 in about -1..1.
    """
    num = len(pictures)
    x = pictures.float().div(127.5).sub(1)
    if torch.rand((), generator=generator) < 0.3:
        x = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    zoom = 1 - 0.15 * torch.rand(num, generator=generator)
    theta = torch.zeros(num, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = (1 - zoom)[:, None] * (2 * torch.rand(num, 2, generator=generator) - 1)
    grid = functional.affine_grid(theta, [num, 3, IMAGE_PX, IMAGE_PX], align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    contrast = 1 + 0.2 * (2 * torch.rand(num, 1, 1, 1, generator=generator) - 1)
    brightness = 0.06 * torch.randn(num, 3, 1, 1, generator=generator)
    return (x * contrast + brightness).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class ScorerTask:
    """What sets the scorer's result, apart from the number of steps."""

    seed: int
    batch: int
    device: torch.device
    peak_lr: float = 2e-3
    is_compiled: bool = True

    def run(self, trainer_config: TrainerConfig, pairs: ScenePairs) -> open_clip.CLIP:
        """Train to the configured step and return the model in evaluation mode."""
        torch.manual_seed(self.seed)
        model = build_scorer().to(self.device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(
            model.parameters(), self.peak_lr, betas=(0.9, 0.98), weight_decay=0.05
        )
        trainer = Trainer(config=trainer_config, modules={"scorer": model}, optimizer=optimizer)
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
        return augment(self.pairs.pictures[rows].flatten(0, 1), self.generator)

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


def subject_loss(images: Tensor) -> Tensor:
    """Ask each unit embedding of (2 * pairs, dim) for its partner among all other pictures."""
    logits = images @ images.T / SUBJECT_TEMPERATURE
    logits = logits.masked_fill(torch.eye(len(images), dtype=torch.bool), -1e4)
    partner = torch.arange(len(images)) ^ 1
    return functional.cross_entropy(logits, partner)
