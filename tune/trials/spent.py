"""A trial's clock: what is trained and scored in; its seconds of training, scoring, waiting out."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from krona.storage.atomic import write_atomically
from tune.names import SCORE_S, SPENT, TRAIN_S

SPENT_FILE = "spent.json"


class Spent:
    """Seconds since a trial was started; what was neither training nor scoring was waiting.

    What several trials do together counts in full for each of them: its own three numbers add up
    to its own time, those of a pack to more than the slot's.
    """

    def __init__(self, train_s: float = 0.0, score_s: float = 0.0, wait_s: float = 0.0) -> None:
        self._busy = {TRAIN_S: train_s, SCORE_S: score_s}
        self._started = time.perf_counter() - train_s - score_s - wait_s

    @classmethod
    def load(cls, workdir: Path) -> Self:
        """What was spent up to the saved state; nothing where that was not kept."""
        path = workdir / SPENT_FILE
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def save(self, workdir: Path) -> None:
        """Keep it beside the state, from which a resumed trial goes on."""
        write_atomically(workdir / SPENT_FILE, json.dumps(self.metrics()).encode())

    def metrics(self) -> dict[str, float]:
        """All seconds so far, by the names of their metrics."""
        busy = self._busy
        waited = time.perf_counter() - self._started - sum(busy.values())
        return dict(zip(SPENT, (*busy.values(), waited), strict=True))

    def add(self, name: str, seconds: float) -> None:
        self._busy[name] += seconds


@contextmanager
def timed(name: str, trials: Iterable[Spent]) -> Iterator[None]:
    """Count what happens inside as `name`'s for each of the trials, also where it fails."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        for spent in trials:
            spent.add(name, seconds)
