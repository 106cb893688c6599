"""Where an export is to go in; an error out if it cannot be written there, or something were lost.

Only what krona exported before is replaced: its metadata says so, and so does the card beside it.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from krona.errors import KronaError
from krona.exchange.card import CARD, SAMPLES, check_place, is_sample
from krona.exchange.formats.names import EXPORT_KEY, ExportFormat

_NAME_CHARS = 50  # with a suffix and a partial file's prefix below 255 bytes in any script


def file_name(name: str) -> str:
    """A name that whoever made the adapter chose, as one component of a path."""
    return re.sub(r"[^\w .-]", "_", name).strip("._ ")[:_NAME_CHARS] or "adapter"


def check_output(
    output: Path, *, format: ExportFormat, is_folder: bool, inputs: Iterable[Path]
) -> None:
    """Raise KronaError unless an export can be written to `output`, and nothing is lost by it.

    Args:
        is_folder: whether the format is one.
        inputs: what the export is made from, which it never replaces.
    """
    with failures_told(output):
        if is_folder:
            _check_folder(output)
        else:
            _check_file(output, format, inputs)
            check_place(output.parent, output.name)
        _check_writable(output)


def check_alone(folder: Path, name: str) -> None:
    """Raise if a folder that is to be uploaded whole has more in it than the export `name`."""
    samples = (path for path in (folder / SAMPLES).glob("*") if not is_sample(path))
    others = (path for path in folder.glob("*") if path.name not in (name, CARD, SAMPLES))
    for path in sorted((*samples, *others)):
        raise KronaError(
            f"{path} is not of the export {name}, and would be uploaded with it; choose another "
            "folder"
        )


@contextmanager
def failures_told(output: Path) -> Iterator[None]:
    """Raise KronaError where the file system refuses; safetensors has an error of its own."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise KronaError(f"{output} was not written: {error}; choose another place") from error


def _check_folder(output: Path) -> None:
    if not output.name:
        raise KronaError(f"{output} has no name to write under; name a folder in it: exported")
    is_empty = output.is_dir() and not output.is_symlink() and not any(output.iterdir())
    if os.path.lexists(output) and not is_empty:
        raise KronaError(f"{output} exists and is not an empty folder; choose a new one")


def _check_file(output: Path, format: ExportFormat, inputs: Iterable[Path]) -> None:
    if output.suffix != ".safetensors" or output.is_dir():
        raise KronaError(
            f"{output} is no file name for the {format} format; end it in .safetensors"
        )
    if not output.exists():
        return
    if any(path.is_file() and output.samefile(path) for path in inputs):
        raise KronaError(f"{output} is what the export is made from; choose another name")
    if not _is_export(output):
        raise KronaError(
            f"{output} exists and is no earlier export of krona's; choose another name"
        )


def _is_export(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return EXPORT_KEY in (file.metadata() or {})
    except SafetensorError:
        return False


def _check_writable(output: Path) -> None:
    folder = next(path for path in output.absolute().parents if os.path.lexists(path))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise KronaError(
            f"{output} cannot be written: {folder} is no folder with write permission; "
            "choose another place"
        )
