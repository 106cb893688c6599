"""What becomes of an export whose loader fails: no file, an error, and the base as before."""

from pathlib import Path
from typing import Any

import peft
import pytest
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from trained import unchanged

from krona.adapter.inject import Adapter
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.export import export_adapter
from krona.exchange.formats import kohya, lora, lycoris, peft_folder, unet_adapter
from krona.exchange.formats.names import ExportFormat

SQUARE = AdapterConfig(factors=(4, 4), scale=0.5)


def place(folder: Path, format: str) -> Path:
    return folder / "out" / ("duck" if format in ("peft", "merged") else "duck.safetensors")


def test_export_that_loads_back_wrong_keeps_the_old_file(
    sd: Base, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = train(sd, SQUARE)
    output = tmp_path / "out.safetensors"
    export_adapter(path, base=sd, format="kohya", output=output)
    old = output.read_bytes()
    right = kohya._layer_tensors
    monkeypatch.setattr(
        kohya,
        "_layer_tensors",
        lambda *layer: {key: 1.001 * tensor for key, tensor in right(*layer).items()},
    )
    with pytest.raises(KronaError, match="the kohya export loads back wrong"):
        export_adapter(path, base=sd, format="kohya", output=output)
    assert output.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("format", "module"),
    [("diffusers", unet_adapter), ("peft", peft_folder), ("lora", lora), ("lycoris", lycoris)],
)
def test_layer_that_the_loader_skips_is_named(
    sd: Base,
    train: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: ExportFormat,
    module: Any,
) -> None:
    path, _ = train(sd, SQUARE)
    write = module.write

    def write_all_but_the_first(output: Path, adapter: Adapter, *rest: Any) -> None:
        layers = dict(list(adapter.layers.items())[1:])
        write(output, Adapter(adapter.unet, layers, is_injected=False), *rest)

    monkeypatch.setattr(module, "write", write_all_but_the_first)
    message = rf"the {format} export loads back wrong: \w+ [\d.]+ skips 1 of .* among them down_"
    with unchanged(sd), pytest.raises(KronaError, match=message):
        export_adapter(path, base=sd, format=format, output=place(tmp_path, format))
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("format", "owner", "method"),
    [
        ("diffusers", UNet2DConditionModel, "load_lora_adapter"),
        ("peft", peft.PeftModel, "from_pretrained"),
        ("lora", StableDiffusionPipeline, "load_lora_weights"),
        ("merged", Adapter, "merge"),
    ],
)
def test_loader_that_fails_midway_leaves_the_base_as_before(
    sd: Base,
    train: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: ExportFormat,
    owner: type,
    method: str,
) -> None:
    path, _ = train(sd, SQUARE)
    load = getattr(owner, method)

    def load_and_fail(*args: Any, **options: Any) -> None:
        load(*args, **options)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(owner, method, load_and_fail)
    with unchanged(sd), pytest.raises(RuntimeError, match="out of memory"):
        export_adapter(path, base=sd, format=format, output=place(tmp_path, format))
