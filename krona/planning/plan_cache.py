"""A base and what is planned on it in; out, the plan that was made of them before on this machine.

What it follows from is its key: the base's configs, the settings, krona's code, and the libraries'
versions; no weights, so that checkpoints of one shape share their plans.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import krona
from krona.adapter.inject import TEXT_ENCODERS
from krona.base.skeleton import config_folders
from krona.base.source import BaseSource
from krona.storage.cache import default_cache_dir
from krona.storage.remembered import remembered

_LIBRARIES = ("torch", "diffusers", "transformers")


def remembered_plan(
    base: BaseSource, settings: Any, compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The values of a plan: those of an earlier one, or else computed and kept.

    Args:
        settings: the PlanConfig.
    """
    folder, vae = config_folders(base)
    read = [f"{name}/config.json" for name in ("unet", *TEXT_ENCODERS)]
    configs = {name: folder / name for name in ("model_index.json", *read)}
    key = {
        "configs": _digest(configs | {"vae/config.json": vae / "config.json"}),
        "settings": asdict(settings),
        "code": _code(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    return remembered(default_cache_dir() / "plans", key, compute)


@cache
def _code() -> str:
    root = Path(krona.__file__).parent
    return _digest({str(path.relative_to(root)): path for path in sorted(root.rglob("*.py"))})


def _digest(files: Mapping[str, Path]) -> str:
    """Of files by their names; one that is not there counts as empty."""
    digest = hashlib.sha256()
    for name, path in files.items():
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
