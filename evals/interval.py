"""Scores of single images in; a balance with its 95 % interval, or the lead of one out.

Intervals are of the percentile bootstrap (Efron & Tibshirani 1993, ch. 13), stratified: the images
of each prompt are drawn anew, the prompts stay, because a balance is defined over a subject's
prompts. It takes two images of each prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from evals.balance import harmonic_mean

NUM_RESAMPLES = 2000
LEVEL_PERCENT = 95

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Calibrated scores of one adapter's images: `subject` and `prompt`, (prompts, images) each."""

    subject: Values
    prompt: Values

    @classmethod
    def of(cls, values: Mapping[str, Sequence[Sequence[float]]]) -> Self:
        """Read them from nested lists under the fields' names."""
        return cls(subject=np.asarray(values["subject"]), prompt=np.asarray(values["prompt"]))

    def lists(self) -> dict[str, list[list[float]]]:
        """What of() reads."""
        return {"subject": self.subject.tolist(), "prompt": self.prompt.tolist()}

    @property
    def num_per_prompt(self) -> int:
        """Images of each prompt."""
        return int(self.subject.shape[1])

    @property
    def num_images(self) -> int:
        """Images of all prompts together."""
        return int(self.subject.size)

    @property
    def balance(self) -> float:
        """The balance of all images together."""
        return float(harmonic_mean(self.subject.mean(), self.prompt.mean()))

    def first(self, num_per_prompt: int) -> Self:
        """The first images of each prompt."""
        return type(self)(
            subject=self.subject[:, :num_per_prompt], prompt=self.prompt[:, :num_per_prompt]
        )

    def with_more(self, more: Self) -> Self:
        """These images and further ones of the same prompts."""
        return type(self)(
            subject=np.concatenate([self.subject, more.subject], axis=1),
            prompt=np.concatenate([self.prompt, more.prompt], axis=1),
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A balance of many images; `half_width` is half of its 95 % interval over images."""

    balance: float
    subject: float
    prompt: float
    half_width: float
    prompts_half_width: float
    """Half the interval if the prompts are drawn anew too: what other prompts would change."""
    num_images: int


def estimate(looks: Looks) -> Estimate:
    """The balance of an adapter's images, and how far another set of images may be from it."""
    return Estimate(
        balance=looks.balance,
        subject=float(looks.subject.mean()),
        prompt=float(looks.prompt.mean()),
        half_width=_half_width(_resampled(looks)),
        prompts_half_width=_half_width(_resampled_prompts(looks)),
        num_images=looks.num_images,
    )


def lead(ahead: Looks, behind: Looks) -> tuple[float, float]:
    """By how much one balance is above another, and half of that difference's 95 % interval.

    Both are of equal prompts and noise: what both have is compared, image by image.
    """
    num = min(ahead.num_per_prompt, behind.num_per_prompt)
    ahead, behind = ahead.first(num), behind.first(num)
    half_width = _half_width(_resampled(ahead) - _resampled(behind))
    return ahead.balance - behind.balance, half_width


def over_seeds(balances: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more seeds' balances, and half of Student's 95 % interval of it."""
    num = len(balances)
    tail = (100 - LEVEL_PERCENT) / 200
    spread = float(np.std(balances, ddof=1)) / num**0.5
    return float(np.mean(balances)), float(student.ppf(1 - tail, num - 1)) * spread


def _resampled(looks: Looks) -> Values:
    """Balances of resamples of the images; looks of equal shape get the same choice of images.

    Of n images n − 1 are drawn, without which the spread of few would come out too small
    (Rao & Wu 1988, "Resampling inference with complex survey data").
    """
    num_prompts, num_images = looks.subject.shape
    choice = _choices(num_images, (num_prompts, num_images - 1))
    at = np.arange(num_prompts)[:, None], choice
    return _balances(looks.subject[at], looks.prompt[at])


def _resampled_prompts(looks: Looks) -> Values:
    """Balances of resamples of whole prompts, each with all its images."""
    num_prompts = len(looks.subject)
    choice = _choices(num_prompts, (num_prompts - 1,))
    return _balances(looks.subject[choice], looks.prompt[choice])


def _choices(num: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, num, (NUM_RESAMPLES, *shape))


def _balances(subject: Values, prompt: Values) -> Values:
    """The balance of each resample, from its values in the last two axes."""
    balances: Values = harmonic_mean(subject.mean(axis=(1, 2)), prompt.mean(axis=(1, 2)))
    return balances


def _half_width(values: Values) -> float:
    tail = (100 - LEVEL_PERCENT) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(high - low) / 2
