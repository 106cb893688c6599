"""What a base may be called, what lasts of a name, and what is said of one that leads nowhere."""

from pathlib import Path

import pytest

from krona.base.hub import hub_name, is_hub_id
from krona.base.source import BaseSource, lasting
from krona.errors import KronaError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["org/name", "org/name-1.0@main", f"o_1/n.2@{COMMIT}"])
def test_an_organization_and_a_name_are_a_hub_s_id(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    ["toyland", "a/b/c", "./a", "/a/b", "a/b.safetensors", "a/", "https://hub.co/a/b", "../a"],
)
def test_paths_and_addresses_are_no_hub_s_id(name: str) -> None:
    assert not is_hub_id(name)


def test_a_snapshot_s_folder_tells_its_id_and_commit() -> None:
    folder = Path("hub/models--org--na-me/snapshots") / COMMIT
    assert hub_name(folder) == f"org/na-me@{COMMIT}"
    assert hub_name(folder.parent) is None


def test_a_path_that_exists_wins_over_a_hub_s_id(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org/tiny").symlink_to(tiny_sd)
    assert BaseSource(name="org/tiny").locate() == Path("org/tiny")
    told = lasting(BaseSource(name="org/tiny", vae="org/tiny", config=Path("org")))
    path = str(tiny_sd.resolve())
    assert told == BaseSource(name=path, vae=path, config=tmp_path / "org")


def test_a_commit_lasts_and_is_not_looked_up() -> None:
    pinned = BaseSource(name=f"org/never@{COMMIT}", vae=f"org/vae@{COMMIT}")
    assert lasting(pinned) == pinned
    assert lasting(BaseSource(name="toyland")) == BaseSource(name="toyland")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sdxl", "'sdxl' has configs alone here; its weights are stabilityai/stable-diffusion-xl"),
        ("https://hub.co/org/name/tree/main", r"Did you mean org/name\?"),
        ("./mine/sdx15", r"Did you mean mine/sdxl15\?"),
        (
            "nope",
            "give 'toyland', a folder in diffusers layout, a .safetensors file, or a hub's id",
        ),
    ],
)
def test_a_name_that_leads_nowhere_is_told_the_nearest_fix(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/sdxl15").mkdir(parents=True)
    with pytest.raises(KronaError, match=said):
        BaseSource(name=name).locate()
