"""Where the embedded weights, the two scorers and the held-out subjects lie; nothing heavy."""

from pathlib import Path

from krona.storage.checksums import verify_checksums

_ROOT = Path(__file__).parent
CHECKPOINT: Path = _ROOT / "checkpoint"
SCORER: Path = _ROOT / "scorer"
ENCODER: Path = _ROOT / "encoder"
SUBJECTS: Path = _ROOT / "subjects"


def intact(folder: Path) -> Path:
    """Return a folder of Toyland's weights once it equals its SHA256SUMS.

    Raises: KronaError naming the damaged file and what brings it back.
    """
    remedy = (
        f"`git checkout {folder.name}` in {_ROOT} brings it back, "
        "`python -m krona.toyland.train` trains it anew"
    )
    verify_checksums(folder, remedy=remedy)
    return folder


def subject_names() -> list[str]:
    """Return the names of the held-out subjects, sorted."""
    return sorted(path.parent.name for path in SUBJECTS.glob("*/subject.toml"))
