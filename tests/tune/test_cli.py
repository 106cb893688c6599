"""The command line says what is wrong and what would be right, without a traceback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from krona.adapter.inject import make_adapter
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base, load_base
from krona.errors import KronaError
from krona.exchange.adapter_file import Manifest, save_adapter
from tune.commands.sample import sample
from tune.commands.sweep import sweep
from tune.commands.train import train
from tune.commands.ui import ui
from tune.config.sweep import SweepConfig
from tune.config.trial import ExperimentConfig, TrialSettings

KRONA = Path(sys.executable).with_name("krona")
COMMANDS = (
    *("sweep", "train", "sample", "eval", "best", "report", "plan", "photos", "export", "ui"),
    "doctor",
)


def krona(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(KRONA), *words], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    printed = krona("--help", folder=tmp_path).stdout
    assert [command for command in COMMANDS if f"• {command} " not in printed] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep", "--trails", "3"], "--trials"),
        (["export", "--format", "kohia"], "kohya"),
        (["train", "--subject", "monstr"], "did you mean 'monster'?"),
        (["train", "--base", "toylnd"], "toylnd"),
        (["train", "--targets", "qx"], "targets='qx'"),
        (["train", "--memory-gib", "0"], "memory_gib=0.0 must be above 0"),
        (["sweep", "--pack", "0"], "krona: pack=0 must be 1 or more"),
        (["train", "--a1", "40", "--sampling-steps", "2"], "a1=40"),
        (["sample", "a toy", "--adapter", "none.safetensors"], "none.safetensors"),
        (["plan", "--base", "sd15", "--factors", "48x64"], "nearest 40 and 64"),
        (["best"], "make sweep"),
        (["report"], "make sweep"),
        (["photos", "nowhere"], "photos folder nowhere does not exist"),
        (["photos", "."], "photos folder . holds no image"),
        (["sample"], "no prompt says what to draw"),
        (["sample", "a toy", "--images-per-prompt", "0"], "images_per_prompt=0 must be 1"),
        (["train", "--sampling-steps", "0"], "sampling_steps=0 must be 1 or more"),
        (["train", "--device", "gpu"], "device 'gpu' cannot be used here"),
        (["eval", "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word_is_refused_with_the_nearest_right_one(
    words: list[str], said: str, tmp_path: Path
) -> None:
    done = krona(*words, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"set -o pipefail; {KRONA} train --help | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("uri", "artifacts"),
    [(None, ["--artifacts-destination"]), ("postgresql://head/records", [])],
    ids=["new_database", "other_database"],
)
def test_ui_serves_a_store_that_is_not_there_yet(
    uri: str | None, artifacts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr("os.execv", lambda _, command: started.extend(command))
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    monkeypatch.chdir(tmp_path)
    ui(tracking_uri=uri)
    store = uri or f"sqlite:///{tmp_path}/mlflow.db"
    assert started[started.index("--backend-store-uri") + 1] == store
    assert [word for word in started if word == "--artifacts-destination"] == artifacts


def test_a_sampled_prompt_has_the_article_that_the_subject_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def drawn(base: object, prompts: list[str], **options: object) -> list[Image.Image]:
        asked.extend(prompts)
        return [Image.new("RGB", (8, 8))] * len(prompts)

    base = load_base("toyland")
    adapter = make_adapter(base.unet, AdapterConfig(factors=(8, 8)), seed=0)
    manifest = Manifest(
        config=AdapterConfig(factors=(8, 8)),
        base_model="toyland",
        base_hash=base.content_hash,
        family=base.family,
        prediction_type=base.prediction_type,
        subject="rex",
        class_noun="dog",
        identifier="ohwx",
        prompts=(),
        steps=1,
        seed=0,
        learning_rate=1e-3,
    )
    path = tmp_path / "rex.safetensors"
    save_adapter(path, adapter.state_dict(), manifest)
    monkeypatch.setattr("krona.diffusion.sample.sample", drawn)
    prompts = "a {} on the beach", "an old {}"
    sample(prompts, adapter=str(path), output=tmp_path / "samples", images_per_prompt=1)
    assert asked == ["an ohwx dog on the beach", "an old ohwx dog"]


def test_samples_are_drawn_where_and_as_the_options_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def drawn(base: Base, prompts: list[str], **options: object) -> list[Image.Image]:
        told.update(options, base=base)
        return [Image.new("RGB", (8, 8))]

    monkeypatch.setattr("krona.diffusion.sample.sample", drawn)
    place: dict[str, Any] = {"device": "meta", "precision": "fp16", "memory_gib": 0.001}
    options = {"resolution": 96, "negative_prompt": "a cat", "batch_size": 3}
    with pytest.warns(UserWarning, match=r"sampling one image .* but 0\.00 GiB are allowed"):
        sample(("a toy",), output=tmp_path, images_per_prompt=1, **place, **options)
    base = told["base"]
    assert (base.unet.device.type, base.unet.dtype) == ("meta", torch.float16)
    assert base.vae.device.type == "cpu"  # it waits there
    assert {name: told[name] for name in options} == options | {"batch_size": 1}


def test_output_that_cannot_be_a_folder_is_refused_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(KronaError, match=r"--output .*file is a file; name a folder"):
        sample(("a toy",), output=file)
    with pytest.raises(KronaError, match=r"--output .*file/x: .*file is a file"):
        train(ExperimentConfig(), TrialSettings(), output=file / "x")
    with pytest.raises(KronaError, match=r"--storage .*file is a file"):
        sweep(SweepConfig(storage=file))


def test_doctor_reports_every_part(tmp_path: Path) -> None:
    done = krona("doctor", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    for part in ("torch", "devices", "ray", "mlflow store", "checkpoint toyland", "disk"):
        assert part in done.stdout
    assert "missing" not in done.stdout
    broken = krona("doctor", "--base", "no/such/folder", folder=tmp_path)
    assert broken.returncode == 1
    assert "missing" in broken.stdout
