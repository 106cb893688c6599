"""A folder's SHA256SUMS tell a whole folder from a damaged one."""

import subprocess
from pathlib import Path

import pytest

from krona.errors import KronaError
from krona.storage.checksums import SUMS, verify_checksums, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.safetensors").write_bytes(b"abc")
    (tmp_path / "index.json").write_text("{}", encoding="utf-8")
    write_checksums(tmp_path)
    return tmp_path


def test_the_sha256_of_abc_is_the_known_one(folder: Path) -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert f"{known}  unet/weights.safetensors\n" in (folder / SUMS).read_text(encoding="utf-8")


def test_sha256sum_itself_accepts_the_file(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=True)


def test_writing_again_does_not_sum_the_sums(folder: Path) -> None:
    before = (folder / SUMS).read_bytes()
    write_checksums(folder)
    assert (folder / SUMS).read_bytes() == before


def test_a_whole_folder_passes_and_a_changed_or_missing_file_is_named(folder: Path) -> None:
    verify_checksums(folder, remedy="ask again")
    (folder / "unet" / "weights.safetensors").write_bytes(b"abd")
    with pytest.raises(KronaError, match=r"weights\.safetensors is damaged.*ask again"):
        verify_checksums(folder, remedy="ask again")
    (folder / "unet" / "weights.safetensors").unlink()
    with pytest.raises(KronaError, match=r"weights\.safetensors is missing; ask again"):
        verify_checksums(folder, remedy="ask again")


def test_a_folder_without_sums_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KronaError, match="SHA256SUMS is missing; ask again"):
        verify_checksums(tmp_path, remedy="ask again")
