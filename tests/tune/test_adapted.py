"""Where the command line takes an adapter and its base from."""

from pathlib import Path

import pytest

from krona.errors import KronaError
from krona.origin import Origin
from tune.adapted import base_of, find_adapter, find_showcase


def test_a_peft_folder_is_an_adapter(tmp_path: Path) -> None:
    assert find_adapter(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["none.safetensors", "pytorch_lora_weights.bin"])
def test_a_missing_file_is_no_run(name: str) -> None:
    with pytest.raises(KronaError, match=f"adapter '{name}' is no file"):
        find_adapter(name)


def test_a_file_has_nothing_to_show(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.touch()
    showcase = find_showcase(str(path))
    assert (showcase.samples, showcase.scores) == ((), {})


def test_a_file_that_names_no_base_needs_one() -> None:
    path, origin = Path("lokr.safetensors"), Origin(name="lokr")
    assert base_of(path, origin, "toyland") == "toyland"
    with pytest.raises(KronaError, match=r"lokr\.safetensors does not say .*; give --base"):
        base_of(path, origin, None)
