"""Scoring an adapter: the base with whatever is injected in, images and their scores out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from evals.balance import Anchors, Scale, balance, calibrate
from evals.encoders import ClipEncoder, DinoEncoder
from evals.protocol import Protocol
from evals.scores import (
    Score,
    mismatched_fidelity,
    pairwise_similarity,
    prompt_fidelity,
    subject_fidelity,
    summarize,
)
from krona.adapter.inject import Adapter
from krona.base.checkpoint import Base
from krona.diffusion.sample import sample, sample_each
from krona.errors import KronaError
from krona.storage.cache import Cache
from krona.subject.photos import Photos
from krona.subject.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Images in prompt order (images_per_prompt for each), their scores, and calibrated values."""

    prompts: tuple[str, ...]
    images: tuple[Image.Image, ...]
    scores: dict[str, Score]
    calibrated: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """Flat numbers for a tracker: each score, its standard error, and the calibrated values."""
        flat = {name: score.mean for name, score in self.scores.items()}
        flat |= {f"{name}_se": score.se for name, score in self.scores.items()}
        return flat | self.calibrated


class Scorer:
    """Scores of one subject on one base, calibrated once and kept in the cache.

    Args:
        base: the base model, without an adapter injected.
        clip: encoder of CLIP-T and CLIP-I.  dino: encoder of DINO, where its weights are at hand.
    Raises: KronaError if the subject has but one prompt, or if the encoders cannot tell its photos
        from the base's samples.
    """

    def __init__(
        self,
        base: Base,
        subject: Subject,
        photos: Photos,
        *,
        clip: ClipEncoder,
        dino: DinoEncoder | None = None,
        protocol: Protocol,
        cache: Cache,
    ) -> None:
        if len(set(subject.prompts)) < 2:
            raise KronaError(
                f"subject '{subject.name}' has one prompt, '{subject.prompts[0]}'; the scores need "
                "two or more that differ: add some to prompts in its subject.toml"
            )
        self.subject = subject
        self.protocol = protocol
        self._resolution = photos.pixels.shape[-1]
        self._cache = cache
        self._clip = clip
        self._image_encoders: dict[str, ClipEncoder | DinoEncoder] = {"clip_i": clip}
        if dino is not None:
            self._image_encoders[dino.score] = dino
        pictures = photo_images(photos)
        self._photos = {
            name: encoder.images(pictures) for name, encoder in self._image_encoders.items()
        }
        self._texts = clip.texts(subject.class_prompts)
        self.anchors = self._calibrate(base, photos)

    def evaluate(self, base: Base) -> Evaluation:
        """Sample the subject's prompts from `base` as it stands and score the images."""
        return self.score(self._sample(base, self.subject.instance_prompts, self.protocol))

    def evaluate_each(self, base: Base, adapters: Sequence[Adapter]) -> list[Evaluation]:
        """What evaluate() gives with each of the adapters, sampled together."""
        prompts = self.subject.instance_prompts
        sampled = sample_each(base, adapters, prompts, **self._sampling(self.protocol))
        return [self.score(images) for images in sampled]

    def look_afresh(self, base: Base, *, first: int, num_per_prompt: int) -> dict[str, Tensor]:
        """Score images of `base` as it stands that no evaluate() has drawn.

        Args:
            first: number of each prompt's first image.
        Returns: the calibrated `subject` and `prompt` of each image, (prompts, num_per_prompt).
        """
        protocol = self.protocol.afresh(num_per_prompt)
        images = self._sample(base, self.subject.instance_prompts, protocol, first=first)
        values = self._values(images)
        prompt = values.pop("clip_t")
        scaled = calibrate(self.anchors, subject=values, prompt=prompt)
        rows = (value.view(-1, num_per_prompt) for value in scaled)
        return dict(zip(("subject", "prompt"), rows, strict=True))

    def score(self, images: Sequence[Image.Image]) -> Evaluation:
        """Score images in prompt order, `images_per_prompt` for each of the subject's prompts."""
        scores = {name: summarize(values) for name, values in self._values(images).items()}
        calibrated = balance(
            self.anchors,
            subject={name: scores[name].mean for name in self._photos},
            prompt=scores["clip_t"].mean,
        )
        prompts = self.subject.instance_prompts
        num_per_prompt = self.protocol.images_per_prompt
        return Evaluation(
            prompts=tuple(prompt for prompt in prompts for _ in range(num_per_prompt)),
            images=tuple(images),
            scores=scores,
            calibrated=calibrated,
        )

    def _values(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Each score of each image; as many of them for each prompt, in prompt order."""
        features = {name: encoder.images(images) for name, encoder in self._image_encoders.items()}
        values = {name: subject_fidelity(features[name], self._photos[name]) for name in features}
        texts = self._texts.repeat_interleave(len(images) // len(self._texts), dim=0)
        return values | {"clip_t": prompt_fidelity(features["clip_i"], texts)}

    def _sample(
        self, base: Base, prompts: Sequence[str], protocol: Protocol, first: int = 0
    ) -> list[Image.Image]:
        return sample(base, prompts, first=first, **self._sampling(protocol))

    def _sampling(self, protocol: Protocol) -> dict[str, Any]:
        return {**protocol.sampling(), "resolution": self._resolution, "cache": self._cache}

    def _calibrate(self, base: Base, photos: Photos) -> Anchors:
        key = {
            "what": "anchors",
            "base": base.content_hash,
            "dtype": str(base.dtype),
            "photos": photos.hashes,
            "resolution": self._resolution,
            "subject": [self.subject.instance_prompts, self.subject.class_prompts],
            "encoders": {name: e.content_hash for name, e in self._image_encoders.items()},
            "sampling": asdict(self.protocol.of_anchors()),
        }
        raw = self._cache.get(key, lambda: self._anchor_values(base))
        scale = {name: Scale(zero=float(low), one=float(high)) for name, (low, high) in raw.items()}
        return Anchors(prompt=scale.pop("clip_t"), subject=scale)

    def _anchor_values(self, base: Base) -> dict[str, Tensor]:
        """(zero, one) of each score: a tensor of two by name."""
        protocol = self.protocol.of_anchors()
        plain = self._clip.images(self._sample(base, self.subject.class_prompts, protocol))
        unadapted = self._sample(base, self.subject.instance_prompts, protocol)
        values = {
            "clip_t": (
                mismatched_fidelity(plain, self._texts),
                prompt_fidelity(plain, self._texts).mean().item(),
            )
        }
        for name, encoder in self._image_encoders.items():
            photos = self._photos[name]
            values[name] = (
                subject_fidelity(encoder.images(unadapted), photos).mean().item(),
                pairwise_similarity(photos),
            )
        return {name: torch.tensor(pair, dtype=torch.float64) for name, pair in values.items()}


def photo_images(photos: Photos) -> list[Image.Image]:
    """The photos as the model sees them, as pictures; one photo comes with its mirror image.

    The mirror image gives a single photo something to be compared with.
    """
    pixels = photos.pixels
    if pixels.shape[0] == 1:
        pixels = torch.cat([pixels, pixels.flip(-1)])
    array = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(row.permute(1, 2, 0).numpy()) for row in array]
