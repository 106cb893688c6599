"""Content-addressed store: a description of a result in, its tensors out, computed at most once.

An entry's file name is the hash of its description, so a stale entry cannot be found by accident.
Writers work on a file of their own and rename it, so readers never see half an entry.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from krona.errors import KronaError
from krona.storage.tensors import read_safetensors, write_safetensors


def default_cache_dir() -> Path:
    """`$KRONA_CACHE`, or `~/.cache/krona`."""
    return Path(os.environ.get("KRONA_CACHE") or "~/.cache/krona").expanduser()


class Cache:
    """Tensors by the description of what made them, one safetensors file each under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(
        self, key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Fetch the entry of `key`, or compute and keep it; a damaged entry is computed anew.

        Args:
            key: everything the result depends on, as JSON values (tuples count as lists).
            compute: makes the tensors, called only on a miss.
        Returns: the tensors on the CPU.
        Raises: KronaError if `root` cannot be written.
        """
        canonical = json.dumps(key, sort_keys=True, separators=(",", ":"))
        path = self.root / f"{hashlib.sha256(canonical.encode()).hexdigest()}.safetensors"
        tensors = _read(path)
        if tensors is None:
            tensors = {name: t.detach().cpu().contiguous() for name, t in compute().items()}
            _write(path, tensors, description=canonical)
        return tensors


def _write(path: Path, tensors: dict[str, Tensor], *, description: str) -> None:
    try:
        write_safetensors(path, tensors, {"key": description, "sha256": _digest(tensors)})
    except OSError as error:
        raise KronaError(
            f"the cache {path.parent} cannot be written: {error}. "
            "Set KRONA_CACHE to a folder with free space"
        ) from error


def _read(path: Path) -> dict[str, Tensor] | None:
    """The entry's tensors; None if it is missing or is not what was written."""
    try:
        tensors, metadata = read_safetensors(path)
    except (OSError, KronaError):
        return None
    return tensors if metadata.get("sha256") == _digest(tensors) else None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
