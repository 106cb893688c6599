"""What a command is told to use, tried before it loads anything: folders to write to, devices."""

import os
from pathlib import Path

from krona.errors import KronaError


def check_folder(folder: Path, option: str) -> None:
    """Raise KronaError unless `folder` can be written to, or made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise KronaError(f"{option} {folder}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise KronaError(f"{option} {folder}: {there} cannot be written to; name another folder")


def check_device(device: str | None) -> None:
    """Raise KronaError unless torch can use the device here; None is one that it can."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        said = str(error).partition("\n")[0]
        raise KronaError(
            f"device '{device}' cannot be used here: {said}; leave --device out, or give cpu"
        ) from error
