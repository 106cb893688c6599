"""How images are made for a score: the settings of the sampler, equal for every adapter."""

from dataclasses import dataclass, replace
from typing import Any, Self

from krona.errors import KronaError


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

    def __post_init__(self) -> None:
        for name in ("images_per_prompt", "sampling_steps"):
            if getattr(self, name) < 1:
                raise KronaError(f"{name}={getattr(self, name)} must be 1 or more")

    def of_anchors(self) -> Self:
        """How the scale is made: whatever number of images and noise are scored on it."""
        plain = type(self)()
        return replace(
            self, images_per_prompt=plain.images_per_prompt, sampling_seed=plain.sampling_seed
        )

    def afresh(self, images_per_prompt: int) -> Self:
        """Images of noise that no evaluation of a trial has seen."""
        return replace(
            self, images_per_prompt=images_per_prompt, sampling_seed=self.sampling_seed + 1
        )

    def sampling(self) -> dict[str, Any]:
        """The options of krona.diffusion.sample.sample() that it means."""
        return {
            "num_per_prompt": self.images_per_prompt,
            "steps": self.sampling_steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.sampling_seed,
        }
