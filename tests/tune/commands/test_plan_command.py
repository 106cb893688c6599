"""`krona plan` reads factors as people write them, and prints for people and for scripts."""

import json
from pathlib import Path

import pytest

from krona.adapter.layers import AdapterConfig
from krona.errors import KronaError
from tune.commands.plan import adapter_config, plan

README = Path(__file__).parents[3] / "README.md"


def test_factors_are_one_pair_or_one_for_each_projection() -> None:
    assert adapter_config(("4x64",), None, "qkvo") == AdapterConfig(factors=(4, 64))
    assert adapter_config(("k=8x64", "q=4,32"), None, "qk") == AdapterConfig(
        factors={"q": (4, 32), "k": (8, 64)}, targets=("q", "k")
    )


def test_a_lora_rank_takes_the_place_of_factors() -> None:
    expected = AdapterConfig(kind="lora", rank=4, targets=("q", "v"))
    assert adapter_config(("4x64",), 4, "qv") == expected


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (("4*64",), r"factors '4\*64' are no pair such as 4x64, or q=4x64"),
        (("4x64", "8x64"), "more than one pair for a projection"),
        (("4x64", "q=8x64"), "more than one pair for a projection"),
        (("q=4x64",), "the targets are q, k, v, o; give one pair for each"),
    ],
)
def test_factors_that_say_nothing_clear_are_refused(factors: tuple[str, ...], message: str) -> None:
    with pytest.raises(KronaError, match=message):
        adapter_config(factors, None, "qkvo")


def test_json_and_the_table_tell_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    plan(factors=("8x8",), batch_size=1, json=True)
    told = json.loads(capsys.readouterr().out)
    plan(factors=("8x8",), batch_size=1)
    printed = capsys.readouterr().out
    parts = [size for part, size in told["memory"].items() if part != "total"]
    assert told["memory"]["total"] == sum(parts)
    for number in (
        f"{told['num_params']:,}",
        f"{told['share_frac']:.3%} of UNet",
        f"{told['file_bytes'] / 1e6:.2f} MB",
        f"{told['memory']['total'] / 2**20:.1f} MiB",
        f"{told['step_flops'] / 1e9:.3g} G",
        f"rank {told['lora_rank']}",
    ):
        assert number in printed
    refused = [row["format"] for row in told["loaders"] if not row["does_load"]]
    assert refused == ["merged-file"]  # it names no AutoencoderTiny
    assert printed.count("loads") >= 4


def test_the_readme_shows_what_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    plan(base="sdxl", factors=("4x64",), batch_size=1, precision="bf16")
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = README.read_text(encoding="utf-8").partition("$ krona plan --base sdxl")[2]
    assert shown.splitlines()[1 : 1 + len(printed)] == printed
