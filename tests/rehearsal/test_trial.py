"""A whole trial on a device that is not the CPU: loaded, calibrated, trained, scored, saved."""

from pathlib import Path

import pytest
from PIL import Image

from evals.protocol import Protocol
from krona.exchange.adapter_file import load_adapter
from tune.config.trial import ExperimentConfig, TrialSettings
from tune.trials.experiment import ADAPTER_FILE, Resident, run_experiment


def test_a_trial_goes_from_photos_to_scores_as_on_the_cpu(
    tiny_sd: Path, tmp_path: Path, device: str
) -> None:
    pytest.importorskip("open_clip")
    photos = tmp_path / "rex"
    photos.mkdir()
    for i, color in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (20, 24), color).save(photos / f"{i}.png")
    (photos / "subject.toml").write_text('class = "dog"\nprompts = ["a {}", "a {} in snow"]\n')
    trial, metrics = TrialSettings(a1=4, a2=8, steps=1), []
    for place in ("cpu", device):
        config = ExperimentConfig(
            photos=photos,
            base=str(tiny_sd),
            scorer="toyland",
            dino="toyland",
            resolution=16,
            batch_size=1,
            precision="fp32",
            protocol=Protocol(images_per_prompt=1, sampling_steps=1),
            device=place,
            cache_dir=tmp_path / "cache" / place,
        )
        resident = Resident.load(config, trial)
        (report,) = run_experiment(resident, vars(trial), tmp_path / place)
        metrics.append(report.metrics)
        state, manifest = load_adapter(tmp_path / place / ADAPTER_FILE)
        assert (manifest.steps, {t.device.type for t in state.values()}) == (1, {"cpu"})
    here, there = metrics
    for name in ("fixed_loss", "clip_i", "clip_t", "toyvit"):
        assert there[name] == pytest.approx(here[name], abs=1e-3), name
