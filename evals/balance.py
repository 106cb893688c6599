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

    def __call__(self, value: float) -> float:
        """Rescale a raw cosine; below 0 and above 1 are possible."""
        return (value - self.zero) / (self.one - self.zero)


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Calibration of one base and subject: a scale for each subject encoder, one for prompts."""

    subject: Mapping[str, Scale]
    prompt: Scale


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b) for a, b in [0, 1]; 0 if either is 0."""
    return 2 * a * b / (a + b) if a > 0 and b > 0 else 0.0


def balance(anchors: Anchors, *, subject: Mapping[str, float], prompt: float) -> dict[str, float]:
    """Calibrated `subject`, `prompt` and their `balance` from raw cosines.

    Args:
        subject: raw subject fidelity by encoder name, the names of `anchors.subject`.
        prompt: raw CLIP-T.
    """
    scaled = [scale(subject[name]) for name, scale in anchors.subject.items()]
    subject_scaled = sum(scaled) / len(scaled)
    prompt_scaled = anchors.prompt(prompt)
    return {
        "subject": subject_scaled,
        "prompt": prompt_scaled,
        "balance": harmonic_mean(_clamp(subject_scaled), _clamp(prompt_scaled)),
    }


def _clamp(value: float) -> float:
    return min(max(value, 0.0), 1.0)
