"""An adapter file and its base in; out, a file or folder that another tool loads, loaded back here.

What was written is read by the tool it is meant for, and compared with scale·A ⊗ B (or up·down) on
every layer, before it takes its name: an export that loads wrong does not appear at all.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from krona.adapter_file import Manifest, load_adapter
from krona.atomic import atomic_path
from krona.errors import KronaError, nearest
from krona.formats import kohya, merged, unet_adapter
from krona.inject import Adapter, inject

if TYPE_CHECKING:
    from krona.checkpoint import Base

ExportFormat = Literal["kohya", "diffusers", "merged"]
_FORMATS: dict[str, Any] = {"kohya": kohya, "diffusers": unet_adapter, "merged": merged}

# Allowed error: of the update itself, and what float32 rounds off the weights it is added to.
_UPDATE_TOLERANCE = 1e-5
_WEIGHT_TOLERANCE = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how far it is from the adapter when loaded back.

    Attributes:
        path: the file, or the folder of a merged pipeline.
        max_abs_error: largest difference in any entry of any layer's update.
        rel_error: Frobenius norm of the difference over that of the update, over all layers.
        loaded_by: the tool and version that read it back; "krona" where none is installed that
            can hold the shapes.
    """

    path: Path
    format: ExportFormat
    max_abs_error: float
    rel_error: float
    loaded_by: str


def export_adapter(
    adapter_path: Path, *, base: "Base", format: ExportFormat, output: Path
) -> ExportReport:
    """Write an adapter in another format, load it back and compare.

    Args:
        adapter_path: a krona adapter file.
        base: the checkpoint it was trained on, in float32; it is as before at the end.
        format: "kohya" or "diffusers", one .safetensors file, or "merged", a pipeline folder.
        output: the file, which is replaced, or the folder, which must be missing or empty.
    Raises: KronaError if the adapter does not fit the base or the format, or loads back wrong.
    """
    _check_output(format, output)
    adapter, manifest = _adapter_of(adapter_path, base)
    module = _FORMATS[format]
    with atomic_path(output) as partial:
        module.write(partial, adapter, base, manifest)
        max_abs_error, rel_error = _compare(partial, adapter, base, format)
    return ExportReport(
        path=output,
        format=format,
        max_abs_error=max_abs_error,
        rel_error=rel_error,
        loaded_by=module.loader(adapter),
    )


def _check_output(format: ExportFormat, output: Path) -> None:
    if format not in _FORMATS:
        raise KronaError(f"format '{format}' is unknown; {nearest(format, get_args(ExportFormat))}")
    if format == "merged":
        if output.is_file() or (output.is_dir() and any(output.iterdir())):
            raise KronaError(f"{output} exists and is not an empty folder; choose a new one")
    elif output.suffix != ".safetensors" or output.is_dir():
        raise KronaError(
            f"{output} is no file name for the {format} format; end it in .safetensors"
        )


def _adapter_of(path: Path, base: "Base") -> tuple[Adapter, Manifest]:
    """The file's adapter around the base's layers, which it has left again."""
    state, manifest = load_adapter(path)
    if manifest.family != base.family:
        raise KronaError(f"{path} is for a {manifest.family} base; {base.source} is {base.family}")
    if base.unet.dtype != torch.float32:
        raise KronaError(f"export needs a float32 base; {base.source} is in {base.unet.dtype}")
    try:
        adapter = inject(base.unet, manifest.config, seed=0)
        adapter.eject()
        adapter.load_state_dict(state)
    except KronaError as error:
        raise KronaError(
            f"{path} does not fit {base.source} (it was trained on {manifest.base_model}): {error}"
        ) from error
    return adapter, manifest


def _compare(
    path: Path, adapter: Adapter, base: "Base", format: ExportFormat
) -> tuple[float, float]:
    """The largest and the relative error of what was written. Raises KronaError if it is wrong."""
    max_abs = error_sq = delta_sq = weight_sq = 0.0
    with closing(_FORMATS[format].deltas(path, adapter, base)) as deltas:
        for layer_path, got in deltas:
            layer = adapter.layers[layer_path]
            delta = layer.delta()
            difference = got.to(delta) - delta
            max_abs = max(max_abs, difference.abs().max().item())
            error_sq += difference.square().sum().item()
            delta_sq += delta.square().sum().item()
            weight_sq += layer.base.weight.square().sum().item()
    error, size, weight = error_sq**0.5, delta_sq**0.5, weight_sq**0.5
    if not error <= _UPDATE_TOLERANCE * size + _WEIGHT_TOLERANCE * weight:
        raise KronaError(
            f"the {format} export loads back wrong: its updates differ by {error:.2g} from the "
            f"adapter's, whose size is {size:.2g}. Nothing was written"
        )
    return max_abs, error / size if size else error
