"""Balance, the number that the search maximises: two calibrated fidelities in, one score out.

    subject = mean over subject encoders of (I − I_base) / (I_photos − I_base)
    prompt  = (T − T_mismatched) / (T_class − T_mismatched)
    balance = 2 · subject · prompt / (subject + prompt), both clamped to [0, 1] first

I is CLIP-I (and DINO where its weights are at hand), T is CLIP-T without the identifier.
I_base: the base model without adapter under the same prompts. I_photos: the photos against each
other. T_class: the base model asked for the plain class. T_mismatched: those images against the
other prompts. Clamping means that copying a photo beyond the photos' own likeness earns nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from krona.errors import KronaError


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Two anchors of a raw cosine: the value that becomes 0 and the value that becomes 1."""

    zero: float
    one: float

    def __post_init__(self) -> None:
        if not self.one > self.zero:
            raise KronaError(
                f"the scorer cannot tell good from bad here: its upper anchor {self.one:.3f} is "
                f"not above its lower anchor {self.zero:.3f}. Check that the photos show one "
                "subject and that the scorer suits the checkpoint (--scorer)"
            )

    def __call__(self, value: Any) -> Any:
        """Rescale a raw cosine, or an array of them; below 0 and above 1 are possible."""
        return (value - self.zero) / (self.one - self.zero)


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Calibration of one base and subject: a scale for each subject encoder, one for prompts."""

    subject: Mapping[str, Scale]
    prompt: Scale


def harmonic_mean(a: Any, b: Any) -> Any:
    """2ab / (a + b), both clamped to [0, 1] first; 0 if either is 0. Numbers or arrays."""
    a, b = np.clip(a, 0, 1), np.clip(b, 0, 1)
    total = a + b
    return 2 * a * b / np.where(total == 0, 1, total)


def calibrate(anchors: Anchors, *, subject: Mapping[str, Any], prompt: Any) -> tuple[Any, Any]:
    """Calibrated subject and prompt from raw cosines, numbers or arrays.

    Args:
        subject: raw subject fidelity by encoder name, the names of `anchors.subject`.
        prompt: raw CLIP-T.
    """
    scaled = [scale(subject[name]) for name, scale in anchors.subject.items()]
    return sum(scaled) / len(scaled), anchors.prompt(prompt)


def balance(anchors: Anchors, *, subject: Mapping[str, float], prompt: float) -> dict[str, float]:
    """Calibrated `subject`, `prompt` and their `balance`; the arguments are calibrate()'s."""
    of_subject, of_prompt = calibrate(anchors, subject=subject, prompt=prompt)
    return {
        "subject": of_subject,
        "prompt": of_prompt,
        "balance": float(harmonic_mean(of_subject, of_prompt)),
    }
