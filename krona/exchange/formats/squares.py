"""Shapes of A and of the layers in; out, whether a tool that derives A from one number holds them.

Such tools hold square factors f×f alone: PEFT, which diffusers loads with, the same f on every
layer; LyCORIS, which puts the smaller factor first, f at most d/f where the layer is d wide.
"""

from collections.abc import Sequence
from math import log

from krona.adapter.inject import Adapter
from krona.adapter.kron import valid_factors
from krona.adapter.layers import Factors, KronLinear
from krona.errors import KronaError

Shape = tuple[int, int]
Pair = tuple[Factors, Shape]
"""A layer's (a1, a2), and its (out_features, in_features)."""


def peft_holds(pairs: Sequence[Pair]) -> bool:
    """Whether A is the same f×f on every layer."""
    factors = {pair[0] for pair in pairs}
    return len(factors) <= 1 and all(a1 == a2 for a1, a2 in factors)


def lycoris_holds(pairs: Sequence[Pair]) -> bool:
    """Whether every A is an f×f that is no larger than its B."""
    return all(a1 == a2 and a1 * a2 <= min(shape) for (a1, a2), shape in pairs)


def peft_squares(pairs: Sequence[Pair]) -> list[int]:
    """Every f that PEFT holds on all the layers, ascending."""
    return [a1 for a1, a2 in valid_factors(shape for _, shape in pairs) if a1 == a2]


def lycoris_squares(pairs: Sequence[Pair]) -> list[int]:
    """Every f that LyCORIS holds on all the layers, ascending."""
    narrowest = min(min(shape) for _, shape in pairs)
    return [f for f in peft_squares(pairs) if f * f <= narrowest]


def nearest_square(pairs: Sequence[Pair], squares: Sequence[int]) -> int:
    """The f whose f·f is nearest, in the logarithm, to the layers' mean a1·a2."""
    size = sum(log(a1 * a2) for (a1, a2), _ in pairs) / len(pairs)
    return min(squares, key=lambda f: abs(2 * log(f) - size))


def check_peft(adapter: Adapter, tool: str) -> None:
    """Raise unless PEFT can hold every layer's shape, for a tool that loads with it."""
    pairs = kron_pairs(adapter)
    if not peft_holds(pairs):
        raise _refusal(f"{tool} loads one square factor for all layers", pairs, peft_squares(pairs))


def check_lycoris(adapter: Adapter) -> None:
    """Raise unless LyCORIS can hold every layer's shape."""
    pairs = kron_pairs(adapter)
    if not lycoris_holds(pairs):
        needs = "LyCORIS loads square factors f×f with f at most d/f on every layer"
        raise _refusal(needs, pairs, lycoris_squares(pairs))


def kron_layers(adapter: Adapter) -> list[KronLinear]:
    """The layers that add A ⊗ B."""
    return [layer for layer in adapter.layers.values() if isinstance(layer, KronLinear)]


def kron_pairs(adapter: Adapter) -> list[Pair]:
    """Their shapes."""
    return [
        ((layer.A.shape[0], layer.A.shape[1]), (layer.base.out_features, layer.base.in_features))
        for layer in kron_layers(adapter)
    ]


def _refusal(needs: str, pairs: Sequence[Pair], squares: Sequence[int]) -> KronaError:
    f = nearest_square(pairs, squares)
    shapes = sorted({factors for factors, _ in pairs})
    return KronaError(
        f"{needs}, and this adapter has {', '.join(map(str, shapes))}; the nearest that fits is "
        f"({f}, {f}). The kohya, lora and merged formats hold the adapter as it is"
    )
