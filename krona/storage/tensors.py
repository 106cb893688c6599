"""Safetensors files: tensors and metadata in, one file out, whole or not at all; and back."""

import json
import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from krona.errors import KronaError
from krona.storage.atomic import atomic_path, write_atomically

_COPIED_BYTES = 1 << 24


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write one safetensors file atomically, making its folder where it is missing."""
    content = save({name: t.cpu().contiguous() for name, t in tensors.items()}, dict(metadata))
    write_atomically(path, content)


def float32_file_bytes(shapes: Mapping[str, Sequence[int]]) -> int:
    """The size of a safetensors file of float32 tensors, its metadata aside.

    Args:
        shapes: name → shape.
    Source: the format's README: 8 bytes, a JSON header padded to 8, the tensors by name.
    """
    header: dict[str, Any] = {}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * prod(shapes[name])
        entry = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
        header[name] = entry
    header_bytes = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-header_bytes // 8) * 8 + end


def add_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Add to a safetensors file's metadata; the tensors are copied as they are."""
    with path.open("rb") as old, atomic_path(path) as partial, partial.open("wb") as new:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        header["__metadata__"] = header.get("__metadata__", {}) | dict(entries)
        content = json.dumps(header, ensure_ascii=False).encode()
        content += b" " * (-len(content) % 8)  # tensors stay aligned
        new.write(len(content).to_bytes(8, "little") + content)
        shutil.copyfileobj(old, new, _COPIED_BYTES)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file's tensors and metadata, or say what is wrong with it."""
    if not path.is_file():
        raise KronaError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise KronaError(_explain(path, error)) from error


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise KronaError where a tensor of a file, to be read or written, has NaN or infinity."""
    for name, tensor in tensors.items():
        if not tensor.double().isfinite().all():  # isfinite knows no 8-bit floats
            raise KronaError(
                f"{path} is of no use: '{name}' holds a number that is not finite; take an earlier "
                "save of it, or train it anew with a lower learning rate"
            )


def _explain(path: Path, error: SafetensorError) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return f"{path} is a pickle, which can run any code and is never opened; use .safetensors"
    return f"{path} is damaged, truncated or not a safetensors file ({error})"
