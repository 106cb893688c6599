"""A folder and its SHA256SUMS in; out, the error that names the first file that differs."""

import hashlib
from pathlib import Path

from krona.errors import KronaError
from krona.storage.atomic import atomic_path

SUMS = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS, in sha256sum's own format, over all other files below a folder."""
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in names]
    with atomic_path(folder / SUMS) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path, *, remedy: str) -> None:
    """Compare every file that SHA256SUMS lists.

    Args:
        remedy: what brings a damaged file back, the end of the error's sentence.
    Raises: KronaError naming the file that is missing or differs.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise KronaError(f"{folder / SUMS} is missing; {remedy}") from None
    for line in lines:
        told, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise KronaError(f"{path} is missing; {remedy}")
        if (got := _sha256(path)) != told:
            raise KronaError(
                f"{path} is damaged: its sha256 is {got[:12]}…, {SUMS} says {told[:12]}…; {remedy}"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
