"""A path in; out, a partial file or folder beside it that takes the name once it is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` if the block succeeds and vanishes if it fails.

    So a reader sees the old file or the new one, never a part. The name is unique, and keeps
    path's suffix. A folder can only become a `path` that is missing or an empty folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid4().hex}.{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write content to path so that a reader sees the old file or the new one, never a part."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)
