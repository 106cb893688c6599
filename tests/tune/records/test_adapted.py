"""Where the command line takes an adapter and its base from."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from krona.adapter.layers import AdapterConfig
from krona.base.source import BaseSource
from krona.errors import KronaError
from krona.exchange.adapter_file import Manifest, save_adapter
from krona.exchange.attach import read_origin
from krona.exchange.origin import Origin
from tune.names import best_scores, image_key
from tune.records.adapted import base_of, find_adapter, find_showcase
from tune.records.tracking import Tracker


def test_a_peft_folder_is_an_adapter(tmp_path: Path) -> None:
    assert find_adapter(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["none.safetensors", "pytorch_lora_weights.bin"])
def test_a_missing_file_is_no_run(name: str) -> None:
    with pytest.raises(KronaError, match=f"adapter '{name}' is no file"):
        find_adapter(name)


def test_a_file_has_nothing_to_show(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.touch()
    showcase = find_showcase(str(path))
    assert (showcase.samples, showcase.scores) == ((), {})


def test_an_adapter_is_used_with_all_that_its_base_was_loaded_from(tmp_path: Path) -> None:
    manifest = Manifest(
        config=AdapterConfig(factors=(2, 2)),
        base_model="sdxl.safetensors",
        base_hash="0",
        base_vae="org/vae@0",
        base_config="sdxl.yaml",
        family="sdxl",
        prediction_type="epsilon",
        subject="duck",
        class_noun="toy",
        identifier="sks",
        prompts=("a {}",),
        steps=1,
        seed=0,
        learning_rate=1e-3,
    )
    path, config = tmp_path / "adapter.safetensors", Path("sdxl.yaml")
    factors = {"x.A": torch.ones(2, 2), "x.B": torch.ones(2, 2)}
    save_adapter(path, factors, manifest)
    origin = read_origin(path)
    trained = BaseSource(name="sdxl.safetensors", vae="org/vae@0", config=config)
    assert base_of(path, origin, None) == trained
    other = BaseSource(name="sdxl.safetensors", vae="mine", config=config)
    assert base_of(path, origin, None, vae="mine") == other
    assert base_of(path, origin, "toyland") == BaseSource(name="toyland")


def test_a_run_shows_its_last_scores_and_the_last_image_of_each_prompt(tmp_path: Path) -> None:
    manifest = Manifest(
        config=AdapterConfig(factors=(2, 2)),
        base_model="toyland",
        base_hash="0",
        family="sd",
        prediction_type="v_prediction",
        subject="duck",
        class_noun="toy",
        identifier="ohwx",
        prompts=("a {} on the beach", "a blue {}", "a {} nobody drew"),
        steps=10,
        seed=0,
        learning_rate=1e-3,
    )
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, {"q.A": torch.ones(2, 2), "q.B": torch.ones(2, 2)}, manifest)
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db")
    sweep = tracker.start_sweep("duck", "one", params={}, tags={})
    run = tracker.trial_run(sweep, "000", {"steps": 10})
    tracker.log_adapter(run, path)
    white, black = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
    beach, blue = map(image_key, ("an ohwx toy on the beach", "a blue ohwx toy"))
    scores = {"balance": 0.5, "toyvit": 0.3, "train_loss": 1.0}
    best = best_scores(scores) | {"best_step": 9}
    tracker.log_report(run, 9, scores | best, [(beach, white), (blue, black)])
    tracker.log_report(run, 10, {"balance": 0.25}, [(beach, black), (blue, white)])
    showcase = find_showcase(run, tracking_uri=tracker.uri)
    assert showcase.scores == {"balance": 0.5, "toyvit": 0.3}
    shown = [(prompt, image.getpixel((0, 0))) for prompt, image in showcase.samples]
    assert shown == [
        ("an ohwx toy on the beach", (255, 255, 255)),
        ("a blue ohwx toy", (0, 0, 0)),
    ]
    with pytest.raises(KronaError, match="no adapter in run 'abc'"):
        find_showcase("abc", tracking_uri=tracker.uri)


def test_a_file_that_names_no_base_needs_one() -> None:
    path, origin = Path("lokr.safetensors"), Origin(name="lokr")
    assert base_of(path, origin, "toyland", vae="v") == BaseSource(name="toyland", vae="v")
    with pytest.raises(KronaError, match=r"lokr\.safetensors does not say .*; give --base"):
        base_of(path, origin, None)
