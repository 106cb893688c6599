"""The model card beside an export: the hub reads it, and it tells no secrets and no fables."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.card import Showcase, base_name
from krona.exchange.export import export_adapter

SQUARE = AdapterConfig(factors=(4, 4))
SHOWCASE = Showcase(
    samples=(
        ('a sks toy: "on" the beach', Image.new("RGB", (8, 8), "red")),
        ("a blue sks toy", Image.new("RGB", (8, 8), "blue")),
    ),
    scores={"balance": 0.31264, "clip_t": 0.25},
)


def exported(base: Base, path: Path, output: Path, format: Any = "kohya", **options: Any) -> str:
    export_adapter(path, base=base, format=format, output=output, **options)
    folder = output if output.is_dir() else output.parent
    return (folder / "README.md").read_text()


def test_the_hub_reads_base_trigger_tags_and_gallery(sd: Base, train: Any, tmp_path: Path) -> None:
    path, _ = train(sd, SQUARE)
    text = exported(sd, path, tmp_path / "out" / "duck.safetensors", showcase=SHOWCASE)
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == Path(sd.source).name
    assert data["base_model_relation"] == "adapter"
    assert data["instance_prompt"] == "sks toy"
    assert (data["library_name"], data["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert {"text-to-image", "stable-diffusion", "lokr", "template:sd-lora"} <= set(data["tags"])
    assert data["widget"] == [
        {"text": 'a sks toy: "on" the beach', "output": {"url": "samples/00.png"}},
        {"text": "a blue sks toy", "output": {"url": "samples/01.png"}},
    ]
    assert "<Gallery />" in text
    with Image.open(tmp_path / "out" / "samples" / "01.png") as image:
        assert image.getpixel((0, 0)) == (0, 0, 255)


def test_the_card_has_scores_settings_error_and_the_call_that_loads_it(
    sd: Base, train: Any, tmp_path: Path
) -> None:
    path, _ = train(sd, SQUARE)
    text = exported(sd, path, tmp_path / "out" / "duck.safetensors", "lora", showcase=SHOWCASE)
    for said in ("| balance | 0.313 |", "| clip t | 0.250 |", "| factors (a1, a2) | (4, 4) |"):
        assert said in text
    assert "| learning rate | 0.001 |" in text
    assert "| loaded by | diffusers 0." in text
    assert 'pipe.load_lora_weights("duck.safetensors")' in text
    assert "None" not in text
    assert "lora" in ModelCard(text).data.to_dict()["tags"]


@pytest.mark.parametrize("format", ["merged", "peft", "merged-file"])
def test_the_card_works_without_samples_and_names_no_path(
    sd: Base, train: Any, tmp_path: Path, format: Any
) -> None:
    path, _ = train(sd, SQUARE)
    name = "duck.safetensors" if format == "merged-file" else "duck"
    text = exported(sd, path, tmp_path / "out" / name, format)
    data = ModelCard(text).data.to_dict()
    assert ("widget" in data, "<Gallery />" in text, "## Scores" in text) == (False,) * 3
    assert str(tmp_path.parent) not in text
    relation = "adapter" if format == "peft" else "finetune"
    assert data["base_model_relation"] == relation
    assert data["library_name"] == ("peft" if format == "peft" else "diffusers")


def test_the_card_of_the_same_export_is_replaced_and_any_other_kept(
    sd: Base, train: Any, tmp_path: Path
) -> None:
    path, _ = train(sd, SQUARE)
    output = tmp_path / "out" / "duck.safetensors"
    exported(sd, path, output)
    exported(sd, path, output)
    readme = output.parent / "README.md"
    with pytest.raises(KronaError, match=r"is not of the model card of hen\.safetensors"):
        exported(sd, path, output.with_name("hen.safetensors"))
    readme.write_text("# My models\n")
    with pytest.raises(KronaError, match="would be lost; choose another folder"):
        exported(sd, path, output)
    assert readme.read_text() == "# My models\n"
    assert not output.with_name("hen.safetensors").exists()


def test_pictures_of_the_same_card_are_replaced_and_any_others_kept(
    sd: Base, train: Any, tmp_path: Path
) -> None:
    path, _ = train(sd, SQUARE)
    output = tmp_path / "out" / "duck.safetensors"
    samples = output.parent / "samples"
    samples.mkdir(parents=True)
    (samples / "00.png").write_text("mine")
    with pytest.raises(KronaError, match=r"samples is not of the model card of duck"):
        exported(sd, path, output, showcase=SHOWCASE)
    assert (samples / "00.png").read_text() == "mine"
    (samples / "00.png").rename(samples / "mine.png")
    (output.parent / "README.md").write_text("Exported by krona as `duck.safetensors`.")
    exported(sd, path, output, showcase=SHOWCASE)
    exported(sd, path, output, showcase=Showcase(samples=SHOWCASE.samples[:1]))
    assert {entry.name for entry in samples.iterdir()} == {"00.png", "mine.png"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("toyland", "toyland"),
        ("/shared/models/sd-v1.5", "sd-v1.5"),
        ("models/v1-5-pruned.safetensors", "v1-5-pruned"),
        ("models/sd-v1.5", "sd-v1.5"),
        ("stabilityai/stable-diffusion-2-1@5cae40e", "stabilityai/stable-diffusion-2-1"),
        (
            "/cache/hub/models--stabilityai--stable-diffusion-xl-base-1.0/snapshots/46216598",
            "stabilityai/stable-diffusion-xl-base-1.0",
        ),
    ],
)
def test_a_base_is_named_as_the_hub_would(source: str, expected: str) -> None:
    assert base_name(source) == expected
