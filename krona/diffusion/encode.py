"""What the frozen encoders say, computed once: photos and prompts in, latents and text out."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from krona.adapter.inject import holds_adapter
from krona.base.arithmetic import moved
from krona.base.checkpoint import Base
from krona.base.families import Family
from krona.base.memory import in_parts, or_in_tiles
from krona.storage.cache import Cache
from krona.subject.photos import Photos

_PIXELS_AT_ONCE = 1 << 20  # the autoencoder of SDXL needs about 2.5 GB for a megapixel


@dataclass(frozen=True, kw_only=True)
class LatentDist:
    """Gaussians over latents, scaled as the UNet wants them: mean and std, each (n, c, h, w)."""

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Draw latents (m, c, h, w) of images `indices` (m,)."""
        mean, std = self.mean[indices], self.std[indices]
        return mean + std * torch.randn(mean.shape, generator=generator)


@dataclass(frozen=True, kw_only=True)
class PromptEmbeds:
    """Text features of n prompts: embeds (n, seq, dim); pooled (n, p) for SDXL."""

    embeds: Tensor
    pooled: Tensor | None = None

    def __getitem__(self, indices: Any) -> "PromptEmbeds":
        pooled = None if self.pooled is None else self.pooled[indices]
        return PromptEmbeds(embeds=self.embeds[indices], pooled=pooled)

    @classmethod
    def cat(cls, parts: Sequence["PromptEmbeds"]) -> "PromptEmbeds":
        """The prompts of all parts, in order."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(
            embeds=torch.cat([part.embeds for part in parts]),
            pooled=torch.cat(pooled) if pooled else None,
        )

    def tensors(self) -> dict[str, Tensor]:
        """By name; pooled only where there is one."""
        pooled = {} if self.pooled is None else {"pooled": self.pooled}
        return {"embeds": self.embeds} | pooled

    def to(self, device: torch.device, dtype: torch.dtype) -> "PromptEmbeds":
        """The same on a device in a precision."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return PromptEmbeds(embeds=self.embeds.to(device, dtype), pooled=pooled)


def encode_latents(base: Base, photos: Photos, cache: Cache) -> LatentDist:
    """Encode photos to latents on the CPU, each photo's from the cache if they are there.

    An autoencoder without a variance (AutoencoderTiny) gets std 0.
    """
    rows = [
        cache.get(
            {"what": "latents", "base": base.content_hash, "photo": photo},
            partial(_encode_image, base, row[None]),
        )
        for photo, row in zip(photos.hashes, photos.pixels, strict=True)
    ]
    return LatentDist(
        mean=torch.cat([row["mean"] for row in rows]), std=torch.cat([row["std"] for row in rows])
    )


@torch.no_grad()
def encode_prompts(base: Base, prompts: Sequence[str], cache: Cache | None) -> PromptEmbeds:
    """Encode prompts to text features, all of them from the cache if they are there.

    Text encoders that hold an adapter are asked as they stand.
    """
    for prompt in prompts:
        _warn_if_cut(base.tokenizers[0], prompt)
    if cache is None or any(map(holds_adapter, base.text_encoders)):
        return embed(base, prompts)
    key = {"what": "prompts", "base": base.content_hash, "dtype": str(base.dtype)}
    tensors = cache.get(key | {"prompts": prompts}, lambda: embed(base, prompts).tensors())
    return PromptEmbeds(**tensors)


def embed(base: Base, prompts: Sequence[str]) -> PromptEmbeds:
    """Run the text encoders as they stand, adapted or not."""
    outputs = [
        _encode_text(base, tokenizer, text_encoder, prompts)
        for tokenizer, text_encoder in zip(base.tokenizers, base.text_encoders, strict=True)
    ]
    return PromptEmbeds(**text_features(outputs, base.family))


@torch.inference_mode()
def decode_latents(base: Base, latents: Tensor) -> Tensor:
    """Decode the UNet's latents (n, c, h, w) to pixels (n, 3, H, W) in [-1, 1]."""
    offset, scale = _latent_affine(base.vae, latents)
    raw = latents / scale + offset
    side = base.resolution * latents.shape[-1] // base.unet.config.sample_size
    with base.at_work(base.vae) as vae:

        def decode() -> list[Tensor]:
            at_once = max(1, _PIXELS_AT_ONCE // side**2)
            return in_parts(lambda rows: vae.decode(raw[rows]).sample, len(raw), at_once)

        return torch.cat(or_in_tiles(vae, decode)).clamp(-1, 1)


@torch.no_grad()
def _encode_image(base: Base, pixels: Tensor) -> dict[str, Tensor]:
    with base.at_work(base.vae) as vae:
        encoded = or_in_tiles(vae, lambda: vae.encode(pixels.to(base.device)))
    if hasattr(encoded, "latents"):
        mean, std = encoded.latents, torch.zeros_like(encoded.latents)
    else:
        mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
    offset, scale = _latent_affine(base.vae, mean)
    return {"mean": (mean - offset) * scale, "std": std * scale}


def _latent_affine(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """The autoencoder's own (offset, scale), so that UNet latents = (raw - offset) * scale."""
    config = vae.config

    def channels(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)

    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return (
            channels(config.latents_mean),
            config.scaling_factor / channels(config.latents_std),
        )
    return channels(config.get("shift_factor") or 0.0), channels(config.scaling_factor)


def text_features(outputs: Sequence[Any], family: Family) -> dict[str, Tensor]:
    """Last hidden state of SD's encoder; SDXL's two penultimate ones, and the second's pooled."""
    if family == "sd":
        return {"embeds": outputs[0].last_hidden_state}
    return {
        "embeds": torch.cat([output.hidden_states[-2] for output in outputs], dim=-1),
        "pooled": outputs[-1].text_embeds,
    }


def _encode_text(base: Base, tokenizer: Any, text_encoder: Any, prompts: Sequence[str]) -> Any:
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    ids, mask = moved([tokens.input_ids, tokens.attention_mask], base.device)
    uses_mask = getattr(text_encoder.config, "use_attention_mask", False)
    with base.at_work(text_encoder):
        return text_encoder(
            ids,
            attention_mask=mask if uses_mask else None,
            output_hidden_states=True,
        )


def _warn_if_cut(tokenizer: Any, prompt: str) -> None:
    limit = tokenizer.model_max_length
    num_tokens = len(tokenizer(prompt, verbose=False).input_ids)
    if num_tokens > limit:
        warnings.warn(
            f"prompt '{prompt}' has {num_tokens} tokens; the text encoder reads the first {limit}",
            stacklevel=2,
        )
