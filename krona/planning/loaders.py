"""An adapter's settings and its layers' shapes in; out, which formats and tools load the result.

Legend: a layer (out, in) with factors (a1, a2) has B of shape (out/a1, in/a2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from krona.adapter.inject import projection_of
from krona.adapter.layers import AdapterConfig
from krona.exchange.formats import squares


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Whether a tool loads the adapter in a format of `krona export`, and if not, why."""

    format: str
    tools: str
    does_load: bool
    reason: str = ""


def loaders(
    config: AdapterConfig, shapes: Mapping[str, squares.Shape], *, odd_parts: Sequence[str] = ()
) -> list[Loader]:
    """Which tools load an adapter, format by format.

    Args:
        shapes: path → (out_features, in_features) of the adapted layers.
        odd_parts: what of the base no single file holds.
    Source: checked with lycoris_lora 3.2–4.1, peft 0.21, diffusers 0.42 and ComfyUI; the A1111
        family and InvokeAI are read from their source code.
    """
    lycoris, diffusers = "", ""
    if config.kind == "krona":
        pairs = _pairs(config, shapes)
        lycoris, diffusers = _lycoris_objection(pairs), _peft_objection(pairs)
    own = "kohya, lycoris"
    if config.adapts_text:
        own, diffusers = "kohya", "it is loaded into a UNet alone"
    single_file = f"it holds no {', '.join(odd_parts)}" if odd_parts else ""
    call = "unet.load_lora_adapter" if config.kind == "krona" else "load_lora_weights"
    rank = exact_lora_rank(config, shapes)
    rows = [
        ("kohya", "ComfyUI, A1111, InvokeAI", ""),
        (own, "LyCORIS", lycoris),
        ("diffusers", f"diffusers ≥ 0.42 ({call})", diffusers),
        ("peft", "PEFT", diffusers),
        ("lora", f"whatever loads LoRA of rank {rank}", ""),
        ("merged", "whatever loads a diffusers pipeline", ""),
        ("merged-file", "whatever loads a single-file checkpoint", single_file),
    ]
    return [
        Loader(format=format, tools=tools, does_load=not objection, reason=objection)
        for format, tools, objection in rows
    ]


def exact_lora_rank(config: AdapterConfig, shapes: Mapping[str, squares.Shape]) -> int:
    """The least LoRA rank that holds every layer's update: rank(A ⊗ B) = rank(A)·rank(B)."""
    if config.kind == "lora":
        return config.rank
    return max(
        min(a1, a2) * min(out // a1, in_ // a2) for (a1, a2), (out, in_) in _pairs(config, shapes)
    )


def _pairs(config: AdapterConfig, shapes: Mapping[str, squares.Shape]) -> list[squares.Pair]:
    return [(config.factors_of(projection_of(path)), shape) for path, shape in shapes.items()]


def _lycoris_objection(pairs: Sequence[squares.Pair]) -> str:
    if squares.lycoris_holds(pairs):
        return ""
    fits = squares.lycoris_squares(pairs)
    f = squares.nearest_square(pairs, fits)
    return f"it holds f×f up to {fits[-1]}×{fits[-1]}; nearest: {f}×{f}"


def _peft_objection(pairs: Sequence[squares.Pair]) -> str:
    if squares.peft_holds(pairs):
        return ""
    f = squares.nearest_square(pairs, squares.peft_squares(pairs))
    return f"it holds one f×f for all layers; nearest: {f}×{f}"
