"""The identity of a checkpoint: its files in, a hash out that changes with any training of it."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

_HASHED_BYTES_PER_TENSOR = 4096


def content_hash(files: Iterable[Path]) -> str:
    """Sha256 over files as they are, and over the header and every tensor's middle of weights."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        if path.suffix == ".safetensors":
            for part in _sampled(path):
                digest.update(part)
        else:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _sampled(path: Path) -> Iterator[bytes]:
    """A weights file's header and the middle of each tensor: changes with any training of it."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size)
        yield header
        spans = [v["data_offsets"] for k, v in json.loads(header).items() if k != "__metadata__"]
        for start, end in sorted(spans):
            length = min(end - start, _HASHED_BYTES_PER_TENSOR)
            file.seek(8 + size + start + (end - start - length) // 2)
            yield file.read(length)
