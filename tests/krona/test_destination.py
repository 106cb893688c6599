"""Where an export may go: nothing of anybody's is lost, and what cannot be is told early."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from krona.adapter import AdapterConfig
from krona.checkpoint import Base
from krona.errors import KronaError
from krona.export import default_output, export_adapter

SQUARE = AdapterConfig(factors=(4, 4))


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


def test_an_earlier_export_is_replaced_and_any_other_file_kept(
    sd: Base, train: Any, tmp_path: Path
) -> None:
    path, _ = train(sd, SQUARE)
    output = tmp_path / "out" / "duck.safetensors"
    output.parent.mkdir()
    for content in (b"", b"mine", path.read_bytes()):
        output.write_bytes(content)
        with pytest.raises(KronaError, match="exists and is no earlier export of krona's"):
            export_adapter(path, base=sd, format="kohya", output=output)
        assert output.read_bytes() == content
    output.unlink()
    export_adapter(path, base=sd, format="lora", output=output)
    report = export_adapter(path, base=sd, format="kohya", output=output)
    assert report.format == "kohya"


def test_what_an_export_is_made_from_is_kept(sd: Base, train: Any, tmp_path: Path) -> None:
    path, _ = train(sd, SQUARE)
    output = tmp_path / "out" / "duck.safetensors"
    link = output.with_name("link.safetensors")
    export_adapter(path, base=sd, format="kohya", output=output)
    link.symlink_to(output)
    content = output.read_bytes()
    is_base = replace(sd, source=str(output))
    for adapter, base, target in (
        (output, sd, output),
        (output, sd, link),
        (path, is_base, output),
    ):
        with pytest.raises(KronaError, match="is what the export is made from; choose another"):
            export_adapter(adapter, base=base, format="kohya", output=target, is_any_base=True)
    assert output.read_bytes() == content
