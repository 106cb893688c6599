"""The main job from the command line on the embedded default: sweep, records, ranking, export.

Everything is real: Ray, Optuna's database, MLflow's store, the checkpoint, the scorer, LyCORIS.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lycoris import create_lycoris_from_weights
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from krona.base.checkpoint import load_base
from krona.diffusion.sample import sample
from krona.exchange.adapter_file import load_adapter
from krona.exchange.attach import attach
from tune.records.adapted import find_adapter

pytestmark = pytest.mark.ray
KRONA = Path(sys.executable).with_name("krona")
SUBJECT = "duck"
NUM_PROMPTS = 12
FACTORS = ((4, 4), (8, 8))  # squares that LyCORIS holds on every layer of the base


def krona(*words: str, folder: Path) -> str:
    done = subprocess.run(
        [str(KRONA), *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"krona {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which `krona sweep` was run, and what it printed."""
    folder = tmp_path_factory.mktemp("work")
    factors = [str(number) for pair in FACTORS for number in pair]
    options = ["--subject", SUBJECT, "--trials", "3", "--steps", "8", "--sampling-steps", "4"]
    options += ["--learning-rate", "5e-3", "2e-2", "--factors", *factors]
    options += ["--finalists", "1", "--final-images", str(2 * NUM_PROMPTS)]
    return folder, krona("sweep", *options, folder=folder)


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def test_every_trial_is_recorded_with_all_that_was_promised(sweep: tuple[Path, str]) -> None:
    folder, _ = sweep
    store = client(folder)
    experiment = store.get_experiment_by_name(f"krona-{SUBJECT}")
    assert experiment is not None
    runs = store.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(children) == 3
    for run in children:
        assert run.info.status == "FINISHED"
        assert {"a1", "a2", "learning_rate", "steps", "targets", "init", "seed"} <= set(
            run.data.params
        )
        assert {"train_loss", "fixed_loss", "clip_t", "clip_i", "balance"} <= set(run.data.metrics)
        assert len(store.get_metric_history(run.info.run_id, "fixed_loss")) >= 1
        names = {file.path for file in store.list_artifacts(run.info.run_id, "adapter")}
        assert names == {"adapter/adapter.safetensors", "adapter/manifest.json"}
        assert len(store.list_artifacts(run.info.run_id, "images")) >= 12
    names = {file.path for file in store.list_artifacts(parent.info.run_id)}
    assert {
        "search_space.json",
        "parallel_coordinates.png",
        "contact_sheet.png",
    } <= names


def test_the_champion_is_the_best_run_that_the_last_line_names(sweep: tuple[Path, str]) -> None:
    folder, printed = sweep
    best = printed.strip().splitlines()[-1].removeprefix("best run: ")
    version = client(folder).get_model_version_by_alias(f"krona-{SUBJECT}", "champion")
    assert version.run_id == best
    assert f"best run: {best}" in krona("best", folder=folder)


def test_the_exported_champion_scores_again_what_the_sweep_reports(sweep: tuple[Path, str]) -> None:
    folder, _ = sweep
    trials = json.loads(krona("best", "--json", folder=folder))["trials"]
    assert trials[0]["confirmed"]["balance"] == trials[0]["balance"]
    krona("export", "--format", "kohya", "--output", "champion.safetensors", folder=folder)
    same_noise = ["--sampling-seed", "2", "--images-per-prompt", "2", "--sampling-steps", "4"]
    asked = ["eval", "champion.safetensors", "--subject", SUBJECT, *same_noise]
    row = next(line for line in krona(*asked, folder=folder).splitlines() if "champion" in line)
    assert float(row.split()[-1]) == pytest.approx(trials[0]["balance"], abs=2e-3)


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


def test_lycoris_draws_what_krona_draws_from_the_exported_champion(
    sweep: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = sweep
    printed = krona("export", "--format", "kohya", "--dtype", "fp32", folder=folder)
    assert "loaded back by lycoris_lora" in printed
    adapter = find_adapter(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    manifest = load_adapter(adapter)[1]
    prompts = [p.format(f"{manifest.identifier} {manifest.class_noun}") for p in manifest.prompts]
    base = load_base("toyland")
    plain = pixels(sample(base, prompts[:4]))
    attached = attach(base, adapter)
    ours = pixels(sample(base, prompts[:4]))
    attached.eject()
    exported = load_file(folder / "exports" / f"{SUBJECT}-kohya" / f"{SUBJECT}.safetensors")
    weights = {name.replace("lora_unet_", "lycoris_"): value for name, value in exported.items()}
    network, _ = create_lycoris_from_weights(1.0, None, base.unet, weights_sd=weights)
    network.apply_to()
    theirs = pixels(sample(base, prompts[:4]))
    moved, differs = np.abs(ours - plain).max(), np.abs(ours - theirs).max()
    print(f"grey levels: the adapter moves {moved}, LyCORIS differs by {differs}")
    assert moved > 20
    assert differs <= 2
