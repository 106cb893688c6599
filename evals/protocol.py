"""How images are made for a score: the settings of the sampler, equal for every adapter."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How images are made for a score: equal prompts, seeds and sampler for every adapter."""

    images_per_prompt: int = 1
    """Images for each prompt."""
    sampling_steps: int = 12
    """Denoising steps of the sampler."""
    guidance_scale: float = 4.0
    """Weight of classifier-free guidance."""
    sampling_seed: int = 1
    """Seed of the starting noise; image i of prompt j has the same noise in every trial."""
