"""What a sweep is told is tried at once: what is not there is refused before anything is loaded."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from krona.errors import KronaError
from tune.config.trial import ExperimentConfig
from tune.trials.checks import check_experiment


def test_the_embedded_default_and_a_users_own_are_accepted(tiny_sd: Path, tmp_path: Path) -> None:
    check_experiment(ExperimentConfig())
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    check_experiment(
        ExperimentConfig(
            base=str(tiny_sd),
            photos=tmp_path,
            class_noun="dog",
            scorer="ViT-B-32:openai",
            dino="facebook/dino-vits16",
        )
    )


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"base": "nope"}, "checkpoint 'nope' does not exist"),
        ({"base": "."}, "no model_index.json"),
        ({"vae": "nope"}, "checkpoint 'nope' does not exist"),
        (
            {"config": Path("nope")},
            "config nope describes a single file, and 'toyland' is",
        ),
        ({"subject": "dck"}, "did you mean 'duck'"),
        ({"photos": Path("nope"), "class_noun": "dog"}, "photos folder nope does not exist"),
        ({"photos": Path(), "class_noun": "dog", "subject": "rex"}, "holds no image"),
        ({"photos": Path(), "subject": "rex"}, "Say its class"),
        ({"scorer": "nope"}, "scorer 'nope' is neither"),
        ({"scorer": "."}, "is neither 'toyland', a folder with open_clip_config.json"),
        ({"scorer": "ViT-B-32:nope.pt"}, "there is no weights file nope.pt"),
        ({"dino": "./nope"}, "no folder with a config.json"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named(
    told: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KronaError, match=said.replace("(", r"\(")):
        check_experiment(ExperimentConfig(**told))  # type: ignore[arg-type]


def test_a_file_without_an_autoencoder_is_refused_until_one_is_given(
    tiny_sd: Path, tmp_path: Path
) -> None:
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({name: torch.zeros(2, 768)}, tmp_path / "base.safetensors")
    config = ExperimentConfig(base=str(tmp_path / "base.safetensors"))
    with pytest.raises(KronaError, match="holds no autoencoder; give"):
        check_experiment(config)
    check_experiment(replace(config, vae=str(tiny_sd)))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("1.txt", " ", "caption .*1.txt is empty"),
        ("1.txt", "on a sofa", "caption 'on a sofa'.* must hold"),
        ("subject.toml", "[photos.'2.png']\ncrop = [0, 0, 1, 1]", "did you mean '1.png'"),
    ],
)
def test_what_is_said_wrong_of_a_photo_is_refused(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(KronaError, match=said):
        check_experiment(ExperimentConfig(photos=tmp_path, class_noun="dog"))


def test_a_wrong_sweep_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    program = """
import sys
from krona.errors import KronaError
from tune.commands.sweep import sweep
from tune.config.sweep import SweepConfig
from tune.config.trial import ExperimentConfig
try:
    sweep(SweepConfig(experiment=ExperimentConfig(base="nope")))
except KronaError as error:
    print(error)
print(sorted({"torch", "ray", "mlflow", "open_clip"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said, heavy = done.stdout.splitlines()
    assert said.startswith("checkpoint 'nope' does not exist")
    assert heavy == "[]"
    assert not list(tmp_path.iterdir())
