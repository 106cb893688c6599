"""`krona export`: an adapter in the form that another tool loads."""

from pathlib import Path
from typing import Literal

import tyro


def export(
    run: tyro.conf.Positional[str | None] = None,
    *,
    format: Literal["kohya", "diffusers", "merged"] = "kohya",
    output: Path | None = None,
    subject: str | None = None,
    base: str | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Write an adapter for another tool, load it back and print the error.

    Args:
        run: MLflow run or adapter file [default: the subject's champion].
        format: kohya (ComfyUI, A1111, LyCORIS), diffusers (load_lora_adapter), or merged (a whole
            pipeline folder).
        output: File or folder to write [default: exports/SUBJECT-FORMAT].
        subject: Whose champion [default: that of the newest sweep].
        base: Checkpoint the adapter was trained on [default: as its manifest says].
        tracking_uri: MLflow store [default: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db].
    """
    from krona.adapter_file import load_adapter
    from krona.checkpoint import load_base
    from krona.export import export_adapter
    from tune.adapted import find_adapter

    path = find_adapter(run, subject=subject, tracking_uri=tracking_uri)
    manifest = load_adapter(path)[1]
    suffix = "" if format == "merged" else ".safetensors"
    target = output or Path("exports") / f"{manifest.subject}-{format}{suffix}"
    loaded = load_base(base or manifest.base_model)
    report = export_adapter(path, base=loaded, format=format, output=target)
    print(
        f"{report.path}: loaded back by {report.loaded_by}, "
        f"max abs error {report.max_abs_error:.1e}, relative error {report.rel_error:.1e}"
    )
