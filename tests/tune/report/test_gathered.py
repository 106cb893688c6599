"""Parts of a report by themselves: commands, the grid's economy, importances."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image
from sweeps import row, trial

from evals.sheet import contact_sheet, sheet_row
from tune.config.provenance import shared_params
from tune.config.sweep import SweepConfig
from tune.config.trial import ExperimentConfig, TrialSettings
from tune.names import images_by_step
from tune.report.importances import importances
from tune.report.pictures import make_grid
from tune.report.repeat import train_command


def test_the_train_command_gives_the_very_settings_back():
    experiment = ExperimentConfig(
        subject="duck", batch_size=2, text_encoders=True, ema_decay=0.0, class_noun="wild bird"
    )
    config = SweepConfig(experiment=experiment, steps=60)
    settings = TrialSettings(a1=4, a2=16, learning_rate=0.0123456789, steps=45, targets="kv")
    told = {**shared_params(config), **vars(settings)}
    words = shlex.split(train_command({k: str(v) for k, v in told.items()}, "duck"))
    assert words[:2] == ["krona", "train"]

    def both(experiment: ExperimentConfig, trial: TrialSettings) -> tuple[object, object]:
        return experiment, trial

    parsed = tyro.cli(both, args=words[2:], config=(tyro.conf.OmitArgPrefixes,))
    meant = replace(experiment, eval_every=15, scorer="toyland", dino="toyland")
    assert parsed == (meant, settings)


def test_images_grow_small_then_few_and_the_page_says_so(tmp_path: Path):
    images = {}
    for step in (10, 20, 30, 40):
        path = tmp_path / f"{step}.png"
        pixels = np.random.default_rng(step).integers(0, 255, (256, 256, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        images["a", step] = path
    one = trial({"balance": ()}, start=0, end=1, images=images)
    whole = make_grid([one], [("a", "a toy")], 10_000_000)
    assert (whole.steps, whole.left_out) == ((10, 20, 30, 40), "")
    size = len(whole.rows[0].cells[0][0].src)
    smaller = make_grid([one], [("a", "a toy")], 2 * size)
    assert smaller.steps == (10, 20, 30, 40)
    few = make_grid([one], [("a", "a toy")], size // 4)
    assert few.steps == (40,)
    assert "only the last step are shown" in few.left_out
    none = make_grid([one], [("a", "a toy")], 100)
    assert none.rows == ()
    assert "do not fit" in none.left_out


def test_the_newer_image_of_a_key_and_step_counts():
    old, new = (f"images/a+step+5+timestamp+{time}+x.png" for time in (1, 2))
    thumbnail = "images/a+step+5+timestamp+3+x+compressed.webp"
    assert images_by_step([new, old, thumbnail]) == {("a", 5): new}


def test_what_decided_the_scores_is_what_mattered():
    rates = (1e-4, 1e-3, 1e-2)
    rows = [
        row(f"{n:03d}", learning_rate=rate, a1=a1, scores={"balance": float(np.log10(rate))})
        for n, (rate, a1) in enumerate((rate, a1) for rate in rates for a1 in (2, 4, 8))
    ]
    found = importances(rows)
    assert set(found) == {"learning rate", "a1"}
    assert found["learning rate"] > 0.95
    assert sum(found.values()) == pytest.approx(1)
    assert importances(rows[:3]) == {}


def test_a_row_of_a_sheet_is_cut_out_as_it_was_laid_in():
    red, blue = (Image.new("RGB", (128, 128), colour) for colour in ("red", "blue"))
    sheet = contact_sheet([("photos", [red]), ("base", [blue, red])], columns=["a", "b"])
    assert [c.getcolors() for c in sheet_row(sheet, 0, 2)] == [red.getcolors()]
    assert [c.getcolors() for c in sheet_row(sheet, 1, 9)] == [blue.getcolors(), red.getcolors()]
    assert sheet_row(sheet, 2, 2) == []
