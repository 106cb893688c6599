"""The search space: an Optuna trial in, the flat settings of one training run out.

The pair (a1, a2) is an index into the valid pairs, sorted by a1·a2: an ordinal that TPE can
follow from one pair to the next, where names without an order would tell it nothing.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import optuna

from krona.errors import nearest_pair
from tune.config.sweep import SweepConfig
from tune.config.trial import PAPER

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Space:
    """What the search may choose from; every tuple is ordered."""

    factors: tuple[Pair, ...]
    learning_rate: tuple[float, float]
    steps: int
    targets: tuple[str, ...]
    init: tuple[str, ...]
    seed: int = 0

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        """Let `trial` choose; return the settings of TrialSettings."""
        a1, a2 = self.factors[trial.suggest_int("factors_index", 0, len(self.factors) - 1)]
        return {
            "a1": a1,
            "a2": a2,
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "steps": self.steps,
            "targets": trial.suggest_categorical("targets", self.targets),
            "init": trial.suggest_categorical("init", self.init),
            "seed": self.seed,
        }

    def paper_default(self) -> dict[str, Any]:
        """Optuna parameters of the paper's setting, each the nearest allowed."""
        low, high = self.learning_rate
        return {
            "factors_index": self.factors.index(nearest_pair((PAPER.a1, PAPER.a2), self.factors)),
            "learning_rate": min(max(PAPER.learning_rate, low), high),
            "targets": PAPER.targets if PAPER.targets in self.targets else self.targets[0],
            "init": PAPER.init if PAPER.init in self.init else self.init[0],
        }

    def describe(self) -> dict[str, Any]:
        """The space as JSON can hold it."""
        return asdict(self)


def make_space(config: SweepConfig, factors: Iterable[Pair]) -> Space:
    """The space of `config` on a base that has room for `factors`."""
    return Space(
        factors=tuple(sorted(factors, key=lambda pair: (pair[0] * pair[1], pair[0]))),
        learning_rate=config.learning_rate,
        steps=config.steps,
        targets=config.targets,
        init=config.init,
        seed=config.seed,
    )
