"""Where an export may go: nothing of anybody's is lost, and what cannot be is told early."""

from pathlib import Path

import pytest

from krona.export import default_output


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("duck", "duck"),
        ("my dück 2.1", "my dück 2.1"),
        ("/tmp/evil", "tmp_evil"),
        ("../../x", "x"),
        ("a\\b\0\n", "a_b"),
        ("..", "adapter"),
        ("", "adapter"),
        ("d" * 300, "d" * 50),
    ],
)
def test_name_in_a_file_leads_nowhere_else(name: str, part: str) -> None:
    folder = Path("exports") / f"{part}-kohya"
    assert default_output(name, "kohya") == folder / f"{part}.safetensors"
    assert default_output(name, "peft") == Path("exports") / f"{part}-peft"
