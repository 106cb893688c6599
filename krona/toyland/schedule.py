"""The learning rate over a run: a step number enters, a share of the peak rate leaves."""

from collections.abc import Callable

Schedule = Callable[[int], float]


def warmup_stable_decay(*, warmup: int, steps: int, decay_frac: float = 0.2) -> Schedule:
    """Rise for `warmup` steps, stay at 1, fall linearly to 0 over the last decay_frac of steps.

    Since nothing before the fall depends on `steps`, a run resumed with another number of
    steps continues as if it had been asked for from the start.
    """
    if not 0 < decay_frac <= 1:
        raise ValueError(f"decay_frac={decay_frac} is no share of the run; try 0.2")
    decay = max(1, round(decay_frac * steps))

    def share(step: int) -> float:
        return max(0.0, min(1.0, (step + 1) / warmup, (steps - step) / decay))

    return share
