"""Toyland: the drawn world and the small checkpoint that krona falls back to; nothing heavy here.

Enters: nothing.  Leaves: where the weights, the scorer and the held-out subjects lie.
"""

from pathlib import Path

_ROOT = Path(__file__).parent
CHECKPOINT: Path = _ROOT / "checkpoint"
SCORER: Path = _ROOT / "scorer"
SUBJECTS: Path = _ROOT / "subjects"


def subject_names() -> list[str]:
    """Return the names of the held-out subjects, sorted."""
    return sorted(path.parent.name for path in SUBJECTS.glob("*/subject.toml"))
