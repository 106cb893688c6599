"""What a command is told to use, tried before it loads anything: folders to write to."""

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
