"""`krona plan`: what an adapter is and what training it costs, from configurations alone."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from krona.errors import KronaError
from tune.config.trial import TOYLAND, TrialSettings

if TYPE_CHECKING:
    from krona.planning.plan import Plan, PlanConfig

Row = tuple[str, str, str]

_PAIR = re.compile(r"(?:([qkvo])=)?(\d+)[x,](\d+)")


def plan(
    *,
    base: str = TOYLAND,
    vae: str | None = None,
    config: Path | None = None,
    factors: tuple[str, ...] = (f"{TrialSettings.a1}x{TrialSettings.a2}",),
    lora_rank: int | None = None,
    targets: str = TrialSettings.targets,
    text_encoders: bool = False,
    resolution: int | None = None,
    batch_size: int = 4,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    gradient_checkpointing: bool = False,
    keep_encoders: bool = True,
    json: bool = False,
) -> None:
    """Print an adapter's size, memory, FLOPs and the tools that load it; no weights are needed.

    Args:
        base: sd15, sd21, sd21-base, sdxl, toyland, a folder in diffusers layout, a .safetensors
            file, or a hub's id, of which the configs are fetched.
        vae: Autoencoder instead of its own: a folder, a .safetensors file, or a hub's id.
        config: What a checkpoint in one file is: a folder in diffusers layout, or a YAML.
        factors: Shape of A, as a1xa2 for all projections, or one for each: q=4x64 k=8x64.
        lora_rank: Plan a LoRA of this rank instead.
        targets: Adapted attention projections: any of the letters q, k, v, o.
        text_encoders: Adapt the text encoders too.
        resolution: Side of the training images in pixels. Unless given: the checkpoint's own.
        batch_size: Images in one forward pass.
        precision: Precision of the base's weights.
        mixed_precision: Arithmetic of the forward and backward pass.
        gradient_checkpointing: Recompute the UNet's blocks in the backward.
        keep_encoders: Keep the text encoders and the autoencoder on the device.
        json: Print JSON for scripts.
    """
    from krona.base.source import BaseSource
    from krona.planning.plan import PlanConfig, make_plan

    planned = PlanConfig(
        adapter=replace(
            adapter_config(factors, lora_rank, TrialSettings(targets=targets).targets),
            adapts_text=text_encoders,
        ),
        resolution=resolution,
        batch_size=batch_size,
        precision=precision,
        mixed_precision=mixed_precision,
        has_checkpointing=gradient_checkpointing,
        keeps_encoders=keep_encoders,
    )
    made = make_plan(BaseSource(name=base, vae=vae, config=config), planned)
    if json:
        _print_json(made)
    else:
        _print_tables(made, planned)


def adapter_config(factors: tuple[str, ...], lora_rank: int | None, targets: str) -> Any:
    """The AdapterConfig of the options: --factors "4x64", or "q=4x64" "k=8x64" for each target."""
    from krona.adapter.layers import AdapterConfig

    letters: Any = tuple(targets)
    if lora_rank is not None:
        return AdapterConfig(kind="lora", rank=lora_rank, targets=letters)
    pairs = dict(map(_parse_pair, factors))
    if len(pairs) != len(factors) or (None in pairs and len(pairs) > 1):
        raise KronaError(
            f"factors {' '.join(factors)} name more than one pair for a projection; give one for "
            "all (4x64) or one for each (q=4x64 k=8x64)"
        )
    pair = pairs.get(None)
    by_projection: Any = pairs
    return AdapterConfig(factors=pair or by_projection, targets=letters)


def _parse_pair(text: str) -> tuple[str | None, tuple[int, int]]:
    match = _PAIR.fullmatch(text)
    if match is None:
        raise KronaError(f"factors '{text}' are no pair such as 4x64, or q=4x64 for one projection")
    return match[1], (int(match[2]), int(match[3]))


def _print_json(made: "Plan") -> None:
    import json

    print(json.dumps(made.to_dict(), indent=2, ensure_ascii=False))


def _print_tables(made: "Plan", config: "PlanConfig") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_title(made, config), markup=False)
    for rows in (_size_rows(made, config), _memory_rows(made, config), _loader_rows(made)):
        console.print(_table(rows))
    console.print(
        "Memory is traced over the configurations, with fused attention. Not counted: CUDA's "
        "context (about 0.5 GiB), workspaces of single operators, gaps between allocations."
    )


def _title(made: "Plan", config: "PlanConfig") -> str:
    adapter = config.adapter
    shape = f"LoRA of rank {adapter.rank}" if adapter.kind == "lora" else f"A is {adapter.factors}"
    return (
        f"{made.base}, {made.resolution} px, batch {config.batch_size}: {shape} on "
        f"{made.num_layers} layers ({' '.join(adapter.targets)})"
    )


def _size_rows(made: "Plan", config: "PlanConfig") -> list[Row]:
    of = "UNet and text encoders" if config.adapter.adapts_text else "UNet"
    in_text = [("", f"{made.num_text_params:,}", "of them in the text encoders")]
    return [
        ("parameters", f"{made.num_params:,}", f"{made.share_frac:.3%} of {of}"),
        *(in_text if config.adapter.adapts_text else []),
        ("file", f"{made.file_bytes / 1e6:.2f} MB", "float32, without its manifest"),
        ("FLOPs of a step", _tera(made.step_flops), f"{_tera(made.forward_flops)} of them forward"),
        ("as a LoRA", f"rank {made.lora_rank}", "the least that holds it exactly"),
    ]


def _memory_rows(made: "Plan", config: "PlanConfig") -> list[Row]:
    memory, in_precision = made.memory, f"weights in {config.precision}"
    alive = "alive besides at the worst moment"
    kept = "value, gradient, moments" + ", average" * config.keeps_average
    rows = [
        ("memory of a step", memory.total, "the sum of:"),
        ("  UNet", memory.unet, in_precision),
        ("  text encoders", memory.text_encoders, in_precision),
        ("  autoencoder", memory.vae, "weights in fp32"),
        ("  adapter", memory.adapter, f"{config.bytes_per_param} bytes a parameter: {kept}"),
        ("  activations", memory.saved, "kept by the forward for the backward"),
        (
            "  working space",
            memory.transient,
            f"{alive}, a recomputed block" if config.has_checkpointing else alive,
        ),
    ]
    return [(name, _bytes(size), note) for name, size, note in rows]


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _tera(flops: int) -> str:
    return f"{flops / 1e12:.3g} T" if flops >= 1e11 else f"{flops / 1e9:.3g} G"


def _loader_rows(made: "Plan") -> list[Row]:
    return [
        (loader.format, "loads" if loader.does_load else "no", _where(loader))
        for loader in made.loaders
    ]


def _where(loader: Any) -> str:
    return f"{loader.tools}: {loader.reason}" if loader.reason else str(loader.tools)


def _table(rows: list[Row]) -> Any:
    from rich.table import Table

    table = Table("", "", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.columns[0].min_width = 16
    table.columns[1].justify = "right"
    for name, value, note in rows:
        table.add_row(name, value, note)
    return table
