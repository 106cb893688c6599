"""A checkpoint in one file in; out, the folder of configs that describes it: no weights are read.

The configs of SD 1.x, 2.x and XL lie in originals/. Which of them a file has is told by its text
width; of SD 2.x, what it predicts and at which side, by its metadata or by the YAML beside it.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from krona.errors import KronaError
from krona.storage.header import Header, read_header

ORIGINALS = Path(__file__).parent / "originals"
_VAE_PREFIX = "first_stage_model."
_CROSS_ATTENTION = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
_BY_TEXT_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_MODEL_CHANNELS = 320
_SCHEDULES = {"eps": "epsilon", "epsilon": "epsilon", "v": "v_prediction"}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a single file is.

    Attributes:
        folder: in diffusers layout, with its configs.
        prediction_type: what its UNet predicts; None where the folder's scheduler says it.
    """

    folder: Path
    prediction_type: str | None = None


def describe(path: Path, config: Path | None = None) -> Description:
    """What a single file is: by `config`, a folder or a YAML, else by what it says of itself.

    Raises: KronaError if the file is damaged or is no Stable Diffusion 1.x, 2.x or XL checkpoint,
        or the config is none, or one of another shape.
    """
    header = read_header(path)
    if config is not None and config.is_dir():
        return Description(folder=config, prediction_type=_told_by_file(header))
    width = _text_width(header)
    if width not in _BY_TEXT_WIDTH:
        some = ", ".join(sorted(header.shapes)[:2]) or "nothing"
        raise KronaError(
            f"checkpoint {path} is no Stable Diffusion 1.x, 2.x or XL checkpoint in one file: it "
            f"holds {some}. For a variant of their shape, give a folder of its configs (--config)"
        )
    told = _told_by_file(header) if config is None else _told_by_yaml(config, width)
    name = _BY_TEXT_WIDTH[width]
    if name == "sd2" and _is_half_size(header, told):
        name = "sd2-base"
    if name == "sd2" and told is None:
        warnings.warn(
            f"{path} does not say what it predicts; as most 2.x checkpoints it is taken for "
            "v-prediction at 768 px. Of a 512 px base, give the YAML or a folder of its configs "
            "(--config)",
            stacklevel=3,
        )
    return Description(folder=ORIGINALS / name, prediction_type=told)


def check_autoencoder(path: Path, vae: Path | None) -> None:
    """Raise KronaError if a single file holds no autoencoder, and none is given."""
    names = read_header(path).shapes
    if vae is None and not any(name.startswith(_VAE_PREFIX) for name in names):
        raise KronaError(
            f"checkpoint {path} holds no autoencoder; give the one that it was trained with: --vae "
            "FOLDER, FILE or hub id"
        )


def _text_width(header: Header) -> int | None:
    for block in (1, 4):
        if shape := header.shapes.get(_CROSS_ATTENTION.format(block)):
            return shape[1]
    return None


def _told_by_file(header: Header) -> str | None:
    """By modelspec's metadata, or by the empty tensor that ComfyUI knows v-prediction by."""
    if "v_pred" in header.shapes:
        return "v_prediction"
    return _SCHEDULES.get(header.metadata.get("modelspec.prediction_type", ""))


def _is_half_size(header: Header, told: str | None) -> bool:
    """Whether an SD 2.x is of the base's 512 px: it says so, or it predicts the noise."""
    resolution = header.metadata.get("modelspec.resolution", "")
    if resolution:
        return resolution.startswith("512")
    return told == "epsilon" or "v2-512" in header.metadata.get("modelspec.architecture", "")


def _told_by_yaml(config: Path, width: int) -> str:
    """What a YAML says that the UNet predicts.

    Raises: KronaError if it cannot be read, or describes another shape than the original's.
    """
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise KronaError(
            f"config {config} is neither a folder in diffusers layout nor a YAML: {error}"
        ) from error
    found = dict(_settings(content))
    shape = found.get("context_dim"), found.get("model_channels")
    if shape != (width, _MODEL_CHANNELS):
        raise KronaError(
            f"config {config} has context_dim, model_channels = {shape}, the checkpoint "
            f"{(width, _MODEL_CHANNELS)}; give the YAML that it was published with, or a folder of "
            "its configs"
        )
    predicted = found.get("parameterization", "eps")
    if predicted not in _SCHEDULES:
        raise KronaError(f"config {config} has parameterization '{predicted}'; known: eps, v")
    return _SCHEDULES[predicted]


def _settings(tree: Any) -> Iterator[tuple[str, Any]]:
    """All that a YAML sets, at any depth; the outermost of a name comes last."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from _settings(value)
        yield from tree.items()
