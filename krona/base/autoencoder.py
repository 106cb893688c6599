"""An autoencoder that is given beside a base in; out, the module, or its class.

It lies in a folder with a config.json, or in a single file that the base's own config describes.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from krona.base.components import library_class, load_model
from krona.base.hub_files import VAE
from krona.base.single_file import load_single_vae
from krona.errors import KronaError
from krona.storage.header import read_header


def load_vae(path: Path, config: Path) -> Any:
    """The autoencoder, in float32.

    Args:
        path: as BaseSource.locate_vae() finds it.
        config: the base's folder of configs.
    Raises: KronaError if it is damaged, or is no autoencoder.
    Warns: if its latents are scaled otherwise than the base's own, so that they hardly fit.
    """
    if path.is_file():
        _check_is_vae(path)
        return load_single_vae(path, config)
    vae = load_model(vae_class(path), path, torch.float32, told=f"vae {path}")
    scale = vae.config.scaling_factor
    is_described = (config / VAE / "config.json").exists()
    own = _config(config / VAE).get("scaling_factor", scale) if is_described else scale
    if scale != own:
        warnings.warn(
            f"vae {path} scales latents by {scale}, and the base's own by {own}: it is of another "
            "family of checkpoints",
            stacklevel=3,
        )
    return vae


def vae_class(folder: Path) -> Any:
    """The class that an autoencoder's config.json names. Raises KronaError if it names none."""
    name = str(_config(folder).get("_class_name"))
    if not name.startswith("Autoencoder"):
        raise KronaError(f"vae {folder} holds a {name}; give a folder of an AutoencoderKL")
    return library_class(folder, VAE, "diffusers", name)


def _check_is_vae(path: Path) -> None:
    names = read_header(path).shapes
    if not any("decoder.conv_in" in name for name in names):
        some = ", ".join(sorted(names)[:2]) or "nothing"
        raise KronaError(f"vae {path} holds no autoencoder, but {some}")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KronaError(f"{path} cannot be read: {error}") from error
    return dict(config)
