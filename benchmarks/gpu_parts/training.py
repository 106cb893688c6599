"""A base in; out, what krona's own training loop takes on it: time, memory against plan, packs.

The photos are the embedded duck's, enlarged, so that the autoencoder and the text encoders run.
Each call trains a few steps and takes the fixed loss once, on one pair; its time is in theirs.
"""

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from record import interleave, time_once
from torch import nn

from gpu_parts.device import peak_bytes, resident_bytes
from gpu_parts.report import OFF_PLAN, PACK_OF_8, Notes
from gpu_parts.setup import GIB, attempt
from krona.adapter.inject import make_adapter
from krona.adapter.layers import AdapterConfig
from krona.base.arithmetic import DTYPES
from krona.base.checkpoint import Base
from krona.planning.plan import PlanConfig, make_plan
from krona.storage.cache import Cache
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from krona.train.config import TrainConfig
from krona.train.data import TrainData, prepare_data
from krona.train.loop import advance
from krona.train.run import Run
from krona.train.state import TrainState

ADAPTER = AdapterConfig(factors=(64, 8))
_ENDLESS = 10**6


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A base and what runs on it read; each call of advance makes `steps` steps."""

    base: Base
    data: TrainData
    steps: int

    @classmethod
    def on(cls, base: Base, *, steps: int) -> "Trained":
        """With the duck's photos, encoded."""
        subject = load_subject("duck")
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the photos are smaller than the base's images
            photos = load_photos(subject.photos_dir, resolution=base.resolution)
            data = prepare_data(base, subject, photos, _config(1, 1), Cache(Path(folder)))
        return cls(base=base, data=data, steps=steps)

    def runs(self, num: int, *, batch_size: int) -> list[Run]:
        """Fresh ones, alike but for the seed."""
        made = []
        for seed in range(num):
            config = _config(self.steps, batch_size, seed=seed)
            adapter = make_adapter(self.base.unet, ADAPTER, seed=seed)
            made.append(Run(self.data, TrainState(adapter, config), config))
        return made

    def advance(self, runs: list[Run]) -> None:
        """A few steps of each; raises if one diverges."""
        for outcome in advance(self.base, runs):
            if isinstance(outcome, Exception):
                raise outcome


def _config(steps: int, batch_size: int, *, seed: int = 0) -> TrainConfig:
    return TrainConfig(
        adapter=ADAPTER,
        steps=_ENDLESS,
        batch_size=batch_size,
        report_every=steps,
        num_fixed_pairs=1,
        seed=seed,
    )


def memory(trained: Trained, notes: Notes, *, batch_sizes: tuple[int, ...], rounds: int) -> None:
    """Time of a step, and the most memory at once against the plan's, by images in a step."""
    off = []
    for batch_size in batch_sizes:
        (run,) = trained.runs(1, batch_size=batch_size)
        error = attempt(partial(trained.advance, [run]))
        if isinstance(error, str):
            notes.add("krona's loop", f"{batch_size} images a step", {"ms a step": error})
            continue
        measured = _measured_bytes(trained, run)
        planned = _planned_bytes(trained.base, batch_size)
        off.append(abs(measured / planned - 1))
        seconds = interleave({"": partial(_seconds, trained, [run])}, rounds, num_dropped=0)
        values = {
            "ms a step": 1e3 * median(seconds[""]) / trained.steps,
            "GiB": measured / GIB,
            "planned GiB": planned / GIB,
            "measured over planned": measured / planned,
        }
        notes.add("krona's loop", f"{batch_size} images a step", values)
        notes.reach(OFF_PLAN, max(off))


def _measured_bytes(trained: Trained, run: Run) -> int:
    """All that is on the device at the worst moment."""
    base, device = trained.base, trained.base.device.type
    modules = [base.unet, base.vae, *base.text_encoders]
    adapter = nn.ParameterList([run.state.flat])
    resident = resident_bytes([*modules, *[adapter] * 4], device)  # value, gradient, two moments
    return resident + peak_bytes(partial(trained.advance, [run]), [*modules, adapter], device)


def _planned_bytes(base: Base, batch_size: int) -> int:
    (precision,) = [name for name, dtype in DTYPES.items() if dtype == base.dtype]
    config = PlanConfig(
        adapter=ADAPTER, batch_size=batch_size, precision=precision, keeps_average=False
    )
    return make_plan(base.source, config).memory.total


def packs(trained: Trained, notes: Notes, *, sizes: tuple[int, ...], rounds: int) -> None:
    """Alike adapters of one image a step together over one by one, for each size of the pack."""
    runs = trained.runs(max(sizes), batch_size=1)
    failed = {n: attempt(partial(trained.advance, runs[:n])) for n in (1, *sizes)}
    for n, error in failed.items():
        if isinstance(error, str):
            notes.add("packs", f"{n} adapters", {"ms a step of all": error})
    calls = {
        str(n): partial(_seconds, trained, runs[:n])
        for n, error in failed.items()
        if not isinstance(error, str)
    }
    times = {int(n): t for n, t in interleave(calls, rounds, num_dropped=0).items()}
    for n in times:
        speed = median(n * one / all_ for one, all_ in zip(times[1], times[n], strict=True))
        step_ms = 1e3 * median(times[n]) / trained.steps
        notes.add("packs", f"{n} adapters", {"ms a step of all": step_ms, "times as fast": speed})
        if n == 8:
            notes.reach(PACK_OF_8, speed)


def _seconds(trained: Trained, runs: list[Run]) -> float:
    return time_once(partial(trained.advance, runs), trained.base.device.type)
