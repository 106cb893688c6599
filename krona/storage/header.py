"""A .safetensors file's path in; out, the names and shapes of its tensors: no weights are read."""

import json
from dataclasses import dataclass
from pathlib import Path

from krona.errors import KronaError


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its tensors.

    Attributes:
        shapes: name → shape.
        metadata: what whoever wrote it said besides.
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header of a .safetensors file, without torch.

    Raises: KronaError if it is damaged, or the tensors that it tells of are not all there.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError(f"its header would have {size} bytes")
            entries = json.loads(file.read(size))
        metadata = entries.pop("__metadata__", {})
        end = 8 + size + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if end != path.stat().st_size:
            raise ValueError(f"it has {path.stat().st_size} bytes instead of {end}")
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise KronaError(f"checkpoint {path} is damaged or cut short: {error}") from error
    return Header(shapes=shapes, metadata=metadata)
