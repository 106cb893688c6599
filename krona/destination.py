"""Where an export is to go: a name from a file in, one component of a path out."""

import re

_NAME_CHARS = 50  # with a suffix and a partial file's prefix below 255 bytes in any script


def file_name(name: str) -> str:
    """A name that whoever made the adapter chose, as one component of a path."""
    return re.sub(r"[^\w .-]", "_", name).strip("._ ")[:_NAME_CHARS] or "adapter"
