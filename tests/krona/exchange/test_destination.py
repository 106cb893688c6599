"""Where an export may go: nothing of anybody's is lost, and what cannot be is told early."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.card import Showcase
from krona.exchange.export import check_request, default_output, export_adapter

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


def test_place_that_cannot_be_written_is_refused_before_the_base_is_needed(
    sd: Base, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = train(sd, SQUARE)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")

    def check(format: Any, *parts: str) -> None:
        check_request(path, base=sd.source, format=format, output=tmp_path.joinpath(*parts))

    with pytest.raises(KronaError, match="file is no folder with write permission"):
        check("kohya", "file", "deeper", "duck.safetensors")
    with pytest.raises(KronaError, match="link exists and is not an empty folder"):
        check("merged", "link")
    with pytest.raises(KronaError, match=r"was not written: .*[Nn]ame too long"):
        check("merged", "d" * 300)
    with pytest.raises(KronaError, match=r"^\. has no name to write under; name a folder in it"):
        check_request(path, base=sd.source, format="merged", output=Path())
    check("merged", "empty")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(KronaError, match="empty is no folder with write permission"):
        check("kohya", "empty", "new", "duck.safetensors")


@pytest.mark.parametrize("format", ["kohya", "merged"])
def test_a_full_disk_is_told_and_leaves_no_export(
    sd: Base, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    def save(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path, _ = train(sd, SQUARE)
    output = tmp_path / "out" / ("duck.safetensors" if format == "kohya" else "duck")
    monkeypatch.setattr(Image.Image, "save", save)
    showcase = Showcase(samples=(("a toy", Image.new("RGB", (8, 8))),))
    with pytest.raises(KronaError, match=r"duck\S* was not written: .*No space left on device"):
        export_adapter(path, base=sd, format=format, output=output, showcase=showcase)
    assert not output.exists()
    assert not list(output.parent.glob(".*"))
