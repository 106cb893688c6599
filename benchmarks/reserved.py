"""The settings that a sweep found for one subject, on the four subjects that chose no default.

No goal; the paper's settings stand beside them, as its scripts have them (krona's default) and as
its text has them. Least possible: all three settings' trials.

Run: python benchmarks/reserved.py --a1 64 --a2 8 --learning-rate 1.4e-2 --steps 100 --init kaiming
[--help]; docs/instrument.md has what it found on one seed.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
import tyro
from instrument import SCORES, Row, name_of, run_trials
from PIL import Image
from record import RESULTS, save
from rich.console import Console
from rich.table import Table

from evals.scorer import photo_images
from evals.sheet import contact_sheet
from krona.toyland.world import RESERVED
from tune.config.trial import ExperimentConfig, TrialSettings
from tune.trials.resident import Resident

# The paper's rates are low: 100 steps hardly move them.
SCRIPTS = TrialSettings(steps=200)
TEXT = TrialSettings(a1=4, a2=64, learning_rate=5e-4, steps=200)


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """What to train on each of them."""

    found: TrialSettings
    """Settings of the best trial of a sweep on another subject."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the adapter, the batches and the noise."""
    threads: int = 2
    """CPU threads."""
    sheet: Path = RESULTS / "reserved.png"
    """Gets the pictures of the first seed."""


def run(config: Reserved) -> tuple[list[Row], Image.Image]:
    """Train and score all; their rows, and the first seed's pictures of each subject."""
    rows, pictures = [], []
    for subject in RESERVED:
        resident = Resident.load(ExperimentConfig(subject=subject))
        base_images = list(resident.scorer.evaluate(resident.base).images)
        pictures += [(f"{subject}: photos", photo_images(resident.photos)), ("base", base_images)]
        for settings in (config.found, SCRIPTS, TEXT):
            trials = [replace(settings, seed=seed) for seed in config.seeds]
            for row, images in run_trials(resident, trials):
                rows.append(row)
                if row["seed"] == config.seeds[0]:
                    pictures.append((f"{name_of(row)}: {row['balance_final']:.2f}", images))
    return rows, contact_sheet(pictures)


def table_of(rows: list[Row]) -> Table:
    """Return means and standard deviations over seeds, a row for each subject and setting."""
    table = Table("subject", "settings", *SCORES)
    for subject, name in dict.fromkeys((row["subject_name"], name_of(row)) for row in rows):
        some = [r for r in rows if (r["subject_name"], name_of(r)) == (subject, name)]
        scores = [[row[f"{score}_final"] for row in some] for score in SCORES]
        table.add_row(subject, name, *(f"{mean(s):.2f} ± {stdev(s):.2f}" for s in scores))
    return table


def main(config: Reserved) -> None:
    """Run them, print the table, keep it and the pictures."""
    torch.set_num_threads(config.threads)
    rows, sheet = run(config)
    Console(width=120).print(table_of(rows))
    sheet.save(config.sheet)
    save("reserved", replace(config, sheet=config.sheet.name), "cpu", rows)


if __name__ == "__main__":
    main(tyro.cli(Reserved, config=(tyro.conf.OmitArgPrefixes,)))
