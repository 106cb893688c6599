"""`krona export`: an adapter in the form that another tool loads."""

import shlex
from pathlib import Path

import tyro

from krona.errors import KronaError
from krona.exchange.formats.names import Dtype, ExportFormat


def export(
    run: tyro.conf.Positional[str | None] = None,
    *,
    format: ExportFormat = "kohya",
    rank: int | None = None,
    dtype: Dtype | None = None,
    output: Path | None = None,
    hub_folder: Path | None = None,
    subject: str | None = None,
    base: str | None = None,
    vae: str | None = None,
    config: Path | None = None,
    any_base: bool = False,
    tracking_uri: str | None = None,
) -> None:
    """Write an adapter for another tool, load it back, print the error; a model card lies beside.

    All is computed on the CPU in fp32, whatever the adapter was trained in, and rounded once, when
    it is written: what another tool loads is compared with the adapter on every layer.

    Args:
        run: MLflow run or adapter file. Unless given: the subject's champion. Krona's own, LoRA or
            LoKr in kohya, LyCORIS, PEFT or diffusers form, or a checkpoint of DiffuseKronA.
        format: kohya (ComfyUI, A1111, LyCORIS), lycoris (create_lycoris_from_weights), diffusers
            (load_lora_adapter), peft (a folder), lora (any tool that loads LoRA), merged (a whole
            pipeline folder), or merged-file (a whole checkpoint in one file).
        rank: Of the lora format; what it loses is measured. Unless given: as much as is exact.
        dtype: Precision of what is written. Unless given: fp16, and fp32 for the merged formats,
            where half precision can round off all that was learned.
        output: File or folder to write. Unless given: in exports/SUBJECT-FORMAT.
        hub_folder: Folder to write instead, with nothing else in it, for `hf upload`.
        subject: Whose champion. Unless given: that of the newest sweep.
        base: Checkpoint the adapter was trained on. Unless given: as its manifest says.
        vae: Autoencoder instead of its own: a folder, a .safetensors file, or a hub's id.
        config: What a checkpoint in one file is: a folder in diffusers layout, or a YAML.
        any_base: Accept another base than that one.
        tracking_uri: MLflow store. Unless given: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db.
    """
    from krona.base.checkpoint import load_base
    from krona.exchange.attach import read_origin
    from krona.exchange.export import check_request, default_output, export_adapter, hub_output
    from tune.records.adapted import base_of, find_adapter, find_showcase

    if output is not None and hub_folder is not None:
        raise KronaError(
            f"both --output {output} and --hub-folder {hub_folder} are given; leave one"
        )
    path = find_adapter(run, subject=subject, tracking_uri=tracking_uri)
    origin = read_origin(path)
    source = base_of(path, origin, base, vae=vae, config=config)
    if hub_folder is not None:
        output = hub_output(hub_folder, origin.name, format)
    output = output or default_output(origin.name, format)
    check_request(path, base=source.name, format=format, output=output, rank=rank)
    report = export_adapter(
        path,
        base=load_base(source),
        format=format,
        output=output,
        rank=rank,
        dtype=dtype,
        is_any_base=any_base,
        showcase=find_showcase(run, subject=subject, tracking_uri=tracking_uri),
    )
    print(
        f"{report.path}: loaded back by {report.loaded_by}, "
        f"max abs error {report.max_abs_error:.1e}, relative error {report.rel_error:.1e}, "
        f"at most {report.rounding_error:.1e} of a layer from rounding to {report.dtype}"
    )
    if hub_folder is not None:
        print(f"publish it: hf upload USER/REPOSITORY {shlex.quote(str(hub_folder))}")
