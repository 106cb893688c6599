"""The finalists' round: the best trials in; their balances over fresh images out, with intervals.

All are drawn with equal noise that no trial was judged by, a few images of each prompt at a time.
One stops where its balance is known well enough, where it is beyond doubt behind the leader, or at
the cap.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evals.interval import Estimate, Looks, estimate, lead
from tune.names import (
    BEHIND,
    BEHIND_HALF_WIDTH,
    CONFIRMED,
    HALF_WIDTH,
    METRIC,
    NUM_CONFIRMED,
    PROMPTS_HALF_WIDTH,
)
from tune.records.ranking import Row

HALF_WIDTH_GOAL = 0.02
IMAGES_A_ROUND = 2  # of each prompt; fewer have no interval

Draw = Callable[[Sequence[str], int, int], Mapping[str, Looks]]
"""Looks at some runs: run ids, number of each prompt's first image, images of each prompt."""


@dataclass(frozen=True, kw_only=True)
class Final:
    """What a finalist's images say; `behind` is (by how much, ± half width), None of the best."""

    looks: Looks
    estimate: Estimate
    behind: tuple[float, float] | None

    def metrics(self) -> dict[str, float]:
        """Flat numbers for a tracker."""
        found = self.estimate
        told = {
            CONFIRMED: found.balance,
            "confirmed_subject": found.subject,
            "confirmed_prompt": found.prompt,
            HALF_WIDTH: found.half_width,
            PROMPTS_HALF_WIDTH: found.prompts_half_width,
            NUM_CONFIRMED: float(found.num_images),
        }
        if self.behind is not None:
            told |= dict(zip((BEHIND, BEHIND_HALF_WIDTH), self.behind, strict=True))
        return told


def finalists(rows: Sequence[Row], num: int) -> list[Row]:
    """The trials with the best single looks, and the paper's default."""
    scored = [row for row in rows if row.has_ended and METRIC in row.scores]
    scored.sort(key=lambda row: -row.scores[METRIC])
    default = [row for row in scored[num:] if row.is_paper_default]
    return scored[:num] + default if num else []


def race(
    run_ids: Sequence[str],
    draw: Draw,
    *,
    max_images: int,
    say: Callable[[Mapping[str, Estimate]], None] = lambda standing: None,
) -> dict[str, Final]:
    """Score runs again until each is known, or known to be behind.

    Args:
        draw: may leave out a run that it cannot draw; that one is out.
        max_images: of a run; at least IMAGES_A_ROUND of each prompt are drawn.
        say: told the standing after each round, the best first.
    """
    looks: dict[str, Looks] = {}
    running, first = list(run_ids), 0
    while running:
        drawn = draw(running, first, IMAGES_A_ROUND)
        running = [run for run in running if run in drawn]
        looks |= {run: looks[run].with_more(drawn[run]) if first else drawn[run] for run in running}
        standing = {run: estimate(seen) for run, seen in looks.items()}
        ordered = sorted(standing, key=lambda run: -standing[run].balance)
        say({run: standing[run] for run in ordered})
        first += IMAGES_A_ROUND
        running = [run for run in running if _goes_on(looks[run], looks, max_images)]
    return _finals(looks)


def _goes_on(seen: Looks, looks: Mapping[str, Looks], max_images: int) -> bool:
    """Whether more images of a run could change what is said of it."""
    if seen.num_images + IMAGES_A_ROUND * len(seen.subject) > max_images:
        return False
    by, half_width = lead(_best(looks), seen)
    return by <= half_width and estimate(seen).half_width > HALF_WIDTH_GOAL


def _finals(looks: Mapping[str, Looks]) -> dict[str, Final]:
    return {
        run: Final(
            looks=seen,
            estimate=estimate(seen),
            behind=None if seen is _best(looks) else lead(_best(looks), seen),
        )
        for run, seen in looks.items()
    }


def _best(looks: Mapping[str, Looks]) -> Looks:
    return max(looks.values(), key=lambda seen: seen.balance)
