"""P2: N adapters trained together over one frozen base, over N trained one after another.

Goals: ≥ 3 × for N = 8 on 8 × 8 latents, ≥ 2 × on 16 × 16. The embedded base has latents of 16 × 16;
8 × 8 are photos of half its side. "alike": all of one shape, which share their products; "mixed":
of eight shapes, as in a search. One image a step is what a pack wins most of; four are the default.
Most that is possible: N times the least time of a step, where one run leaves the device idle. Both
ways run in every round. Run: make bench
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro
from record import goal, interleave, prepare, ratios, save, time_once
from rich.console import Console
from rich.table import Table

from krona.adapter.inject import make_adapter
from krona.adapter.layers import AdapterConfig
from krona.base.arithmetic import DTYPES, Precision
from krona.base.checkpoint import Base, load_base
from krona.storage.cache import Cache
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from krona.train.config import TrainConfig
from krona.train.data import prepare_data
from krona.train.loop import advance
from krona.train.run import Run
from krona.train.state import TrainState

SHAPES = ((4, 64), (8, 8), (16, 16), (64, 8), (2, 32), (32, 4), (4, 16), (8, 32))
GOALS = {8: 3.0, 16: 2.0}
ENDLESS = 10**6


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time adapters trained together against one after another, on the embedded base."""

    num_runs: int = 8
    """Adapters."""
    steps: int = 2
    """Steps of each in a round."""
    rounds: int = 5
    """Interleaved rounds in a case."""
    batch_sizes: tuple[int, ...] = (1, 4)
    """Images of each adapter in a step, one case after the other."""
    precision: Precision = "fp32"
    """Of the base's weights."""
    threads: int = 2
    """CPU threads of torch."""
    device: str = "cpu"
    """Where to run: cpu or cuda."""


def measure(
    base: Base,
    config: Config,
    *,
    batch_size: int,
    resolution: int,
    is_mixed: bool,
    cache: Cache,
) -> float:
    """How many times as fast the runs are together."""
    subject = load_subject("backpack")
    photos = load_photos(subject.photos_dir, resolution=resolution)
    runs = []
    for i in range(config.num_runs):
        told = TrainConfig(
            adapter=AdapterConfig(factors=SHAPES[i % len(SHAPES)] if is_mixed else SHAPES[0]),
            steps=ENDLESS,
            batch_size=batch_size,
            report_every=config.steps,
            num_fixed_pairs=1,
            resolution=resolution,
            seed=i,
        )
        data = prepare_data(base, subject, photos, told, cache)
        adapter = make_adapter(base.unet, told.adapter, seed=i)
        runs.append(Run(data, TrainState(adapter, told), told))

    def one_by_one() -> None:
        for run in runs:
            advance(base, [run])

    times = interleave(
        {
            "one by one": lambda: time_once(one_by_one, config.device),
            "together": lambda: time_once(lambda: advance(base, runs), config.device),
        },
        config.rounds,
    )
    return 1 / ratios(times, "one by one")["together"]


def main(config: Config) -> None:
    """Measure all cases, print and keep them."""
    prepare(config.threads)
    dtype = DTYPES[config.precision]
    base = load_base("toyland", device=config.device, dtype=dtype)
    columns = ("latents", "images a step", "adapters", "times as fast", "goal")
    table = Table(*columns, title=f"{config.num_runs} runs")
    results = {"dtype": str(dtype)}
    with TemporaryDirectory() as folder:
        for side, batch_size, is_mixed in product(GOALS, config.batch_sizes, (False, True)):
            speed = measure(
                base,
                config,
                batch_size=batch_size,
                resolution=side * base.resolution // base.unet.config.sample_size,
                is_mixed=is_mixed,
                cache=Cache(Path(folder)),
            )
            name = "mixed" if is_mixed else "alike"
            results[f"{side} {name}, images a step {batch_size}"] = speed
            limit = goal(speed, None if is_mixed else GOALS[side], is_least=True)
            table.add_row(f"{side} x {side}", str(batch_size), name, f"{speed:.2f}", limit)
    Console().print(table)
    Console().print(f"written to {save('pack', config, config.device, results)}")


if __name__ == "__main__":
    main(tyro.cli(Config))
