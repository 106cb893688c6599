"""What a single file is: by its shape, by what it says of itself, or by the YAML beside it."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from krona.base.original_config import describe
from krona.base.skeleton import build_skeleton
from krona.base.source import BaseSource
from krona.errors import KronaError

KEY = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
YAML = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params: {{ {told} timesteps: 1000, image_size: 64, unet_config: {{ params: {{
    in_channels: 4, model_channels: {channels}, context_dim: {width} }} }} }}
"""


def _file(folder: Path, width: int = 1024, **metadata: str) -> Path:
    """A file that looks like a checkpoint of a text width, and says what `metadata` has."""
    path = folder / "model.safetensors"
    told = {f"modelspec.{name}": value for name, value in metadata.items()}
    save_file({KEY.format(4 if width == 2048 else 1): torch.zeros(8, width)}, path, told)
    return path


def _yaml(folder: Path, told: str = "", *, width: int = 1024, channels: int = 320) -> Path:
    path = folder / f"{width}-{channels}-{len(told)}.yaml"
    path.write_text(YAML.format(told=told, width=width, channels=channels))
    return path


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"prediction_type": "epsilon"}, ("sd2-base", "epsilon", 512)),
        ({"prediction_type": "epsilon", "resolution": "512x512"}, ("sd2-base", "epsilon", 512)),
        ({"prediction_type": "epsilon", "resolution": "768x768"}, ("sd2", "epsilon", 768)),
        ({"prediction_type": "v", "resolution": "768x768"}, ("sd2", "v_prediction", 768)),
        ({"architecture": "stable-diffusion-v2-512"}, ("sd2-base", None, 512)),
    ],
)
def test_sd_2_is_told_by_its_metadata(
    tmp_path: Path, metadata: dict[str, str], expected: tuple[str, str | None, int]
) -> None:
    path = _file(tmp_path, **metadata)
    with warnings.catch_warnings(action="error"):
        told = describe(path)
        with torch.device("meta"):
            resolution = build_skeleton(path).resolution
    assert (told.folder.name, told.prediction_type, resolution) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("", ("sd2-base", "epsilon", 512)),
        ('parameterization: "eps",', ("sd2-base", "epsilon", 512)),
        ('parameterization: "v",', ("sd2", "v_prediction", 768)),
    ],
)
def test_sd_2_is_told_by_its_yaml(
    tmp_path: Path, told: str, expected: tuple[str, str, int]
) -> None:
    path, config = _file(tmp_path), _yaml(tmp_path, told)
    with warnings.catch_warnings(action="error"), torch.device("meta"):
        described = describe(path, config)
        resolution = build_skeleton(BaseSource(name=str(path), config=config)).resolution
    assert (described.folder.name, described.prediction_type, resolution) == expected


def test_a_yaml_of_sd_1_may_say_v_prediction(tmp_path: Path) -> None:
    config = _yaml(tmp_path, 'parameterization: "v",', width=768)
    told = describe(_file(tmp_path, 768), config)
    assert (told.folder.name, told.prediction_type) == ("sd1", "v_prediction")


def test_sd_2_that_says_nothing_is_taken_for_768_px_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"taken for v-prediction at 768 px.*\(--config\)"):
        assert describe(_file(tmp_path)).folder.name == "sd2"


def test_a_config_that_does_not_suit_the_file_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path)
    for config, said in (
        (
            _yaml(tmp_path, width=768),
            r"model_channels = \(768, 320\), the checkpoint \(1024, 320\)",
        ),
        (_yaml(tmp_path, channels=64), r"= \(1024, 64\), the checkpoint"),
        (_yaml(tmp_path, "parameterization: x0,"), "parameterization 'x0'; known: eps, v"),
        (tmp_path / "nope", "is neither a folder in diffusers layout nor a YAML"),
    ):
        with pytest.raises(KronaError, match=said):
            describe(path, config)
