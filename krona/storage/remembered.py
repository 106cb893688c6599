"""A description of a result in, its JSON values out, computed at most once on a machine.

As the cache of tensors: a file's name is the hash of its description. Processes that ask for the
same at the same time wait for the first of them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from krona.storage.atomic import write_atomically
from krona.storage.lock import locked


def remembered(
    folder: Path, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Fetch the values of `key`, or compute and keep them, where the folder can be written.

    Args:
        key: everything the result depends on, as JSON values (tuples count as lists).
    """
    canonical = json.dumps(key, sort_keys=True)
    path = folder / f"{hashlib.sha256(canonical.encode()).hexdigest()}.json"
    with locked(path.with_suffix(".lock")):
        values = _read(path, canonical)
        if values is None:
            values = compute()
            with suppress(OSError):
                content = json.dumps({"key": canonical, "values": values})
                write_atomically(path, content.encode())
    return values


def _read(path: Path, canonical: str) -> dict[str, Any] | None:
    """The values; None if there are none, or not what was written."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return dict(entry["values"]) if entry["key"] == canonical else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
