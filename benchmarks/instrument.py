"""Whether Toyland's scores tell good settings from bad: a grid of settings, subjects and seeds.

Goal: the spread between settings is at least 5 times the spread between seeds, for balance; subject
fidelity rises and prompt fidelity falls with the learning rate; the score after a quarter of the
steps ranks settings as the final one does. Least possible: every trial's steps and two evaluations.

Trials are kept one by one in a JSON-lines file, and a run goes on where it was stopped.
Run: python benchmarks/instrument.py [--help]; the findings are in docs/instrument.md.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr

from evals.scorer import photo_images
from evals.sheet import contact_sheet
from krona.adapter.inject import make_adapter
from krona.train.data import prepare_data
from krona.train.loop import advance
from krona.train.run import Run
from krona.train.state import TrainState, averaged
from tune.config.trial import ExperimentConfig, TrialSettings
from tune.trials.resident import Resident

RESULTS = Path(__file__).parent / "results"
SCORES = ("balance", "subject", "prompt")
FACTORS = ((4, 64), (8, 8), (32, 32))
LORA_RANK = 4
# Log-spaced from 1e-5 to 1e-1.
RATES = tuple(10 ** (-5 + 0.8 * step) for step in range(6))

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """What to run, and where its rows and its sheet go."""

    subjects: tuple[str, ...] = ("backpack", "duck", "taxi")
    """Embedded subjects; the reserved ones stay out."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the adapter, the batches and the noise."""
    steps: int = 80
    """Optimizer steps of each trial; a multiple of 4."""
    ema_decay: float = ExperimentConfig.ema_decay
    """Of the moving average that is scored, as in krona's commands."""
    pack: int = 9
    """Trials trained at once."""
    threads: int = 2
    """CPU threads."""
    rows: Path = RESULTS / "instrument.jsonl"
    """One line for each finished trial; those in it are not run again."""
    sheets: Path = RESULTS / "instrument"
    """Folder of the contact sheets, one for each subject."""


def settings_grid(config: Instrument) -> list[TrialSettings]:
    """Return the 24 settings: six learning rates, each with three factor pairs and LoRA."""
    common = {"steps": config.steps, "init": "kaiming"}  # the one law that both kinds are drawn by
    kron = [
        TrialSettings(a1=a1, a2=a2, learning_rate=rate, **common)
        for a1, a2 in FACTORS
        for rate in RATES
    ]
    lora = [
        TrialSettings(kind="lora", rank=LORA_RANK, learning_rate=rate, **common) for rate in RATES
    ]
    return kron + lora


def name_of(row: Row) -> str:
    """Name a setting as the tables and sheets do."""
    adapter = f"LoRA {row['rank']}" if row["kind"] == "lora" else f"({row['a1']},{row['a2']})"
    return f"{adapter} {row['learning_rate']:.1e}"


def run_trials(
    resident: Resident, settings: Sequence[TrialSettings]
) -> Iterator[tuple[Row, list[Image.Image]]]:
    """Train adapters together; the scores of each after a quarter and at the end, last images."""
    base, steps = resident.base, settings[0].steps
    quarter = steps // 4
    runs = []
    for trial in settings:
        config = replace(resident.train_config(trial), report_every=quarter)
        data = prepare_data(base, resident.subject, resident.photos, config, resident.cache)
        adapter = make_adapter(base.unet, config.adapter, seed=trial.seed)
        runs.append(Run(data, TrainState(adapter, config), config))
    told = {"subject_name": resident.subject.name, "ema_decay": resident.config.ema_decay}
    rows = [told | asdict(trial) for trial in settings]
    adapters = [run.state.adapter for run in runs]
    for step in range(quarter, steps + 1, quarter):
        for outcome in advance(base, runs):
            if isinstance(outcome, Exception):
                raise outcome
        if step in (quarter, steps):
            at = "quarter" if step == quarter else "final"
            with averaged([run.state for run in runs]):
                evaluations = resident.scorer.evaluate_each(base, adapters)
            for row, evaluation in zip(rows, evaluations, strict=True):
                row |= {f"{score}_{at}": evaluation.calibrated[score] for score in SCORES}
    for row, evaluation in zip(rows, evaluations, strict=True):
        yield row, list(evaluation.images)


def run(config: Instrument) -> list[Row]:
    """Run what the rows file lacks and return all rows of this grid."""
    config.rows.parent.mkdir(parents=True, exist_ok=True)
    for subject in config.subjects:
        missing = _missing(config, subject)
        if not missing:
            continue
        resident = Resident.load(ExperimentConfig(subject=subject, ema_decay=config.ema_decay))
        packs = [missing[i : i + config.pack] for i in range(0, len(missing), config.pack)]
        for pack in track(packs, description=subject):
            for row, images in run_trials(resident, pack):
                if row["seed"] == config.seeds[0]:
                    _keep_images(config, row, images)
                with config.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        _write_sheet(config, resident)
    return [row for row in _rows(config) if row["subject_name"] in config.subjects]


def _missing(config: Instrument, subject: str) -> list[TrialSettings]:
    done = {(row["subject_name"], name_of(row), row["seed"], row["steps"]) for row in _rows(config)}
    return [
        replace(settings, seed=seed)
        for settings in settings_grid(config)
        for seed in config.seeds
        if (subject, name_of(asdict(settings)), seed, config.steps) not in done
    ]


def _rows(config: Instrument) -> list[Row]:
    if not config.rows.exists():
        return []
    rows = map(json.loads, config.rows.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["ema_decay"] == config.ema_decay]


def _image_path(config: Instrument, row: Row, number: int) -> Path:
    name = name_of(row).replace(" ", "-")
    return config.sheets / row["subject_name"] / f"{name}-{number}.png"


def _keep_images(config: Instrument, row: Row, images: list[Image.Image]) -> None:
    for number, image in enumerate(images):
        path = _image_path(config, row, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def _write_sheet(config: Instrument, resident: Resident) -> None:
    """Lay the first seed's images out, a row for each setting, the best balance first."""
    first = [
        row
        for row in _rows(config)
        if row["subject_name"] == resident.subject.name and row["seed"] == config.seeds[0]
    ]
    rows = [("photos", photo_images(resident.photos))]
    prompts = list(resident.subject.instance_prompts)
    for row in sorted(first, key=lambda row: -row["balance_final"]):
        paths = [_image_path(config, row, number) for number in range(len(prompts))]
        if not paths[0].exists():  # of a row that came with the repository
            continue
        label = f"{name_of(row)}: {row['balance_final']:.2f}"
        rows.append((label, [Image.open(path) for path in paths]))
    contact_sheet(rows, columns=prompts).save(config.sheets / f"{resident.subject.name}.png")


def spread_ratio(rows: list[Row], score: str) -> tuple[float, float]:
    """Return the standard deviations between settings (of seed means) and between seeds (pooled).

    Both are within a subject, averaged over subjects as variances.
    """
    grouped: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["subject_name"]][name_of(row)].append(row[f"{score}_final"])
    settings = [stdev([mean(v) for v in by.values()]) ** 2 for by in grouped.values()]
    seeds = [mean([stdev(v) ** 2 for v in by.values()]) for by in grouped.values()]
    return math.sqrt(mean(settings)), math.sqrt(mean(seeds))


def quarter_rank(rows: list[Row], score: str) -> dict[str, float]:
    """Return each subject's Spearman of the quarter's scores with the last, averaged over seeds."""
    found: dict[str, list[float]] = defaultdict(list)
    for subject, seed in sorted({(row["subject_name"], row["seed"]) for row in rows}):
        some = [row for row in rows if (row["subject_name"], row["seed"]) == (subject, seed)]
        pairs = [[row[f"{score}_{at}"] for row in some] for at in ("quarter", "final")]
        found[subject].append(float(spearmanr(*pairs).statistic))
    return {subject: mean(values) for subject, values in found.items()}


def rate_table(rows: list[Row]) -> Table:
    """Return subject and prompt fidelity over the learning rate, means over subjects and seeds."""
    table = Table("adapter", *(f"{rate:.1e}" for rate in RATES))
    for adapter in dict.fromkeys(name_of(row).rsplit(" ", 1)[0] for row in rows):
        for score in SCORES:
            cells = []
            for rate in RATES:
                chosen = [r for r in rows if name_of(r) == f"{adapter} {rate:.1e}"]
                cells.append(f"{mean(r[f'{score}_final'] for r in chosen):.2f}")
            table.add_row(f"{adapter} {score}", *cells)
    return table


def main(config: Instrument) -> None:
    """Run the grid and print what docs/instrument.md holds."""
    torch.set_num_threads(config.threads)
    rows, console = run(config), Console(width=120)
    console.print(rate_table(rows))
    for score in SCORES:
        settings, seeds = spread_ratio(rows, score)
        console.print(
            f"{score}: between settings {settings:.3f}, between seeds {seeds:.3f}, "
            f"ratio {settings / seeds:.1f}"
        )
        told = ", ".join(f"{name} {rho:.2f}" for name, rho in quarter_rank(rows, score).items())
        console.print(f"{score}: Spearman of a quarter of the steps with the end: {told}")


if __name__ == "__main__":
    main(tyro.cli(Instrument))
