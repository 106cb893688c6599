"""An adapter file and its base in; out, a file or folder that another tool loads, loaded back here.

What was written is read by the tool it is meant for, and compared with scale·A ⊗ B (or up·down) on
every layer, before it takes its name: an export that loads wrong does not appear at all. The
measured error stands in it, and a model card beside it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from krona.adapter.inject import Adapter
from krona.adapter.layers import Lora, PublishedKronLinear
from krona.adapter.low_rank import as_lora
from krona.base.checkpoint import Base
from krona.base.quiet import quiet_loaders
from krona.errors import KronaError, check_choice, nearest
from krona.exchange.attach import attach, read_origin
from krona.exchange.card import Card, Showcase
from krona.exchange.destination import check_alone, check_output, failures_told, file_name
from krona.exchange.formats import (
    kohya,
    lora,
    lycoris,
    merged,
    merged_file,
    peft_folder,
    unet_adapter,
)
from krona.exchange.formats.names import EXPORT_FILE, EXPORT_KEY, Dtype, ExportFormat
from krona.exchange.formats.rounding import DTYPES
from krona.exchange.load_back import Measured, measure
from krona.exchange.origin import Origin
from krona.storage.atomic import atomic_path
from krona.storage.tensors import add_metadata

_FORMATS: dict[str, Any] = {
    "kohya": kohya,
    "lycoris": lycoris,
    "diffusers": unet_adapter,
    "peft": peft_folder,
    "lora": lora,
    "merged": merged,
    "merged-file": merged_file,
}
_HOLD_ANY_UPDATE = ("lora", "merged", "merged-file")
_HOLD_TEXT = ("kohya", *_HOLD_ANY_UPDATE)


@dataclass(frozen=True, kw_only=True)
class ExportReport(Measured):
    """What was written: the file, or the folder of a format that is one."""

    path: Path


def export_adapter(
    adapter_path: Path,
    *,
    base: Base,
    format: ExportFormat,
    output: Path,
    rank: int | None = None,
    dtype: Dtype | None = None,
    is_any_base: bool = False,
    showcase: Showcase | None = None,
) -> ExportReport:
    """Write an adapter in another format, load it back, compare, and write its model card.

    Args:
        adapter_path: an adapter that krona.exchange.attach reads.
        base: the checkpoint it was trained on, in float32; it is as before at the end.
        format: "kohya", "lycoris", "diffusers", "lora" or "merged-file", one .safetensors file, or
            "peft" or "merged", a folder.
        output: the file, which replaces none but an earlier export, or the folder, which must be
            missing or empty.
        rank: of the "lora" format, which is exact without; then the error is the truncation's.
        dtype: of what is written; None is fp16, as tools share adapters, and fp32 for merged
            weights, where half precision can round the whole update off.
        is_any_base: accept another base than the one it was trained on, if the shapes fit.
        showcase: sample images and scores for the card.
    Raises: KronaError if the adapter does not fit the base or the format, loads back wrong, or
        cannot be written to output.
    """
    check_request(adapter_path, base=base.source, format=format, output=output, rank=rank)
    adapter, origin = _adapter_of(adapter_path, base, is_any_base=is_any_base)
    module, dtype = _FORMATS[format], dtype or _default_dtype(format)
    check_choice("dtype", dtype, DTYPES)
    written = _as_written(adapter, base, format, rank)
    with failures_told(output), atomic_path(output) as partial, quiet_loaders():
        module.write(partial, written, base, origin, DTYPES[dtype])
        measured = measure(
            partial,
            module=module,
            format=format,
            written=written,
            adapter=adapter,
            base=base,
            rank=rank,
            dtype=dtype,
        )
        _sign(partial, measured, origin)
        card = _card(output.name, written, base, origin, measured, showcase or Showcase())
        card.write(partial if module.IS_FOLDER else output.parent)
    return ExportReport(**asdict(measured), path=output)


def default_output(name: str, format: ExportFormat) -> Path:
    """Where an export goes if nobody says: a folder of its own, since a card lies beside it."""
    name = file_name(name)
    folder = Path("exports") / f"{name}-{format}"
    return folder if _FORMATS[format].IS_FOLDER else folder / f"{name}.safetensors"


def hub_output(folder: Path, name: str, format: ExportFormat) -> Path:
    """Where an export goes in a folder that is uploaded to the Hugging Face Hub as it is.

    Raises: KronaError where it holds anything else, which would be uploaded too.
    """
    if _FORMATS[format].IS_FOLDER:
        return folder
    output = folder / f"{file_name(name)}.safetensors"
    check_alone(folder, output.name)
    return output


def check_request(
    adapter_path: Path,
    *,
    base: str,
    format: ExportFormat,
    output: Path,
    rank: int | None = None,
) -> None:
    """Raise where export_adapter() would, as far as that shows before a base is loaded.

    Args:
        base: its name or path.
    """
    if format not in _FORMATS:
        raise KronaError(f"format '{format}' is unknown; {nearest(format, get_args(ExportFormat))}")
    if rank is not None and format != "lora":
        raise KronaError(f"rank={rank} is for the lora format; {format} has none, so leave it out")
    check_output(
        output,
        format=format,
        is_folder=_FORMATS[format].IS_FOLDER,
        inputs=(adapter_path, Path(base).expanduser()),
    )


def _adapter_of(path: Path, base: Base, *, is_any_base: bool) -> tuple[Adapter, Origin]:
    """The file's adapter around the base's layers, which it has left again."""
    origin = read_origin(path)
    if base.unet.dtype != torch.float32:
        raise KronaError(f"export needs a float32 base; {base.source} is in {base.unet.dtype}")
    adapter = attach(base, path, is_any_base=is_any_base)
    adapter.eject()
    return adapter, origin


def _as_written(adapter: Adapter, base: Base, format: ExportFormat, rank: int | None) -> Adapter:
    """The adapter in the shape that the format has. Raises KronaError if it can have none."""
    is_published = any(isinstance(x, PublishedKronLinear) for x in adapter.layers.values())
    if is_published and format not in _HOLD_ANY_UPDATE:
        raise KronaError(
            "DiffuseKronA's published code adds no Kronecker product, so the "
            f"{format} format cannot hold this adapter; {', '.join(_HOLD_ANY_UPDATE)} can"
        )
    if adapter.adapts_text and format not in _HOLD_TEXT:
        raise KronaError(
            f"the {format} format is loaded into a UNet alone, and this adapter has layers in the "
            f"text encoders; {', '.join(_HOLD_TEXT)} can hold them"
        )
    _FORMATS[format].check(adapter, base)
    return as_lora(adapter, rank) if format == "lora" else adapter


def _default_dtype(format: ExportFormat) -> Dtype:
    return "fp32" if format.startswith("merged") else "fp16"


def _card(
    name: str,
    written: Adapter,
    base: Base,
    origin: Origin,
    measured: Measured,
    showcase: Showcase,
) -> Card:
    return Card(
        name=name,
        is_lora=all(isinstance(layer, Lora) for layer in written.layers.values()),
        base_source=base.source,
        base_hash=base.content_hash,
        family=base.family,
        origin=origin,
        measured=measured,
        usage=_FORMATS[measured.format].usage(name, base.family),
        showcase=showcase,
    )


def _sign(path: Path, measured: Measured, origin: Origin) -> None:
    """Put the measured error into what was written: a file's metadata, or krona.json."""
    if not path.is_dir():
        add_metadata(path, {EXPORT_KEY: json.dumps(asdict(measured))})
        return
    manifest = json.loads(origin.manifest.to_json()) if origin.manifest else None
    content = json.dumps({"manifest": manifest, "export": asdict(measured)}, indent=2)
    (path / EXPORT_FILE).write_text(content + "\n", encoding="utf-8")
