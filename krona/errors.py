"""What a user can act on: KronaError, and its kinds that say how a trial has failed."""

import math
from collections.abc import Iterable
from difflib import get_close_matches


class KronaError(Exception):
    """A wrong input or setting; the message says what, what was got, and the nearest fix."""


class NonFiniteLossError(KronaError):
    """The loss or its gradient became NaN or infinite; the trial has failed."""


class DoesNotFitError(KronaError):
    """Memory did not suffice, although all that can be was given up for it."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device's memory, or the machine's, did not suffice (torch need not be there)."""
    return type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)


def check_choice(name: str, got: str, valid: Iterable[str]) -> None:
    """Raise KronaError unless a setting is one of its valid values."""
    if got not in valid:
        raise KronaError(f"{name} '{got}' is unknown; {nearest(str(got), valid)}")


def nearest(got: str, valid: Iterable[str]) -> str:
    """Name the valid values for an error message, the closest to `got` first."""
    names = sorted(valid)
    close = get_close_matches(got, names, n=1, cutoff=0.5)
    listed = ", ".join(names) or "none"
    return f"did you mean '{close[0]}'? Known: {listed}" if close else f"known: {listed}"


def nearest_pair(pair: tuple[int, int], pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The member of `pairs` with the least difference from `pair` in log a1 plus log a2."""
    return min(pairs, key=lambda p: sum(abs(math.log(x / y)) for x, y in zip(p, pair, strict=True)))
