"""An adapter's settings and its layers' shapes in; out, which formats and tools load the result.

Legend: a layer (out, in) with factors (a1, a2) has B of shape (out/a1, in/a2). Tools that rebuild
the factors from one number f hold square factors f×f only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from krona.adapter import AdapterConfig, Factors
from krona.inject import projection_of
from krona.kron import valid_factors

Shape = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Whether a tool loads the adapter in a format of `krona export`, and if not, why."""

    format: str
    tools: str
    does_load: bool
    reason: str = ""


def loaders(
    config: AdapterConfig, shapes: Mapping[str, Shape], *, odd_parts: Sequence[str] = ()
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
        lycoris, diffusers = _lycoris_objection(config, shapes), _peft_objection(config, shapes)
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


def exact_lora_rank(config: AdapterConfig, shapes: Mapping[str, Shape]) -> int:
    """The least LoRA rank that holds every layer's update: rank(A ⊗ B) = rank(A)·rank(B)."""
    if config.kind == "lora":
        return config.rank
    pairs = {path: config.factors_of(projection_of(path)) for path in shapes}
    return max(
        min(a1, a2) * min(shapes[path][0] // a1, shapes[path][1] // a2)
        for path, (a1, a2) in pairs.items()
    )


def _lycoris_objection(config: AdapterConfig, shapes: Mapping[str, Shape]) -> str:
    """LyCORIS derives the factors of each layer from one f, and puts the smaller factor first."""
    pairs = {(config.factors_of(projection_of(path)), shape) for path, shape in shapes.items()}
    if all(a1 == a2 and a1 * a1 <= min(shape) for (a1, a2), shape in pairs):
        return ""
    narrowest = min(min(shape) for shape in shapes.values())
    fits = [f for f in _square_factors(shapes) if f * f <= narrowest]
    return f"it holds f×f up to {fits[-1]}×{fits[-1]}; nearest: {_nearest(config, fits)}"


def _peft_objection(config: AdapterConfig, shapes: Mapping[str, Shape]) -> str:
    """PEFT, which diffusers loads with, derives the factors of all layers from one f."""
    pairs = {config.factors_of(projection) for projection in config.targets}
    if len(pairs) == 1 and all(a1 == a2 for a1, a2 in pairs):
        return ""
    nearest = _nearest(config, _square_factors(shapes))
    return f"it holds one f×f for all layers; nearest: {nearest}"


def _square_factors(shapes: Mapping[str, Shape]) -> list[int]:
    return [a1 for a1, a2 in valid_factors(shapes.values()) if a1 == a2]


def _nearest(config: AdapterConfig, squares: list[int]) -> str:
    """The f×f whose size is nearest to the factors', in the logarithm."""
    pairs: list[Factors] = [config.factors_of(projection) for projection in config.targets]
    size = sum(log(a1 * a2) for a1, a2 in pairs) / len(pairs)
    f = min(squares, key=lambda f: abs(2 * log(f) - size))
    return f"{f}×{f}"
