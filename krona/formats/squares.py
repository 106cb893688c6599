"""An adapter in; an error out where a tool derives A's shape from one number and cannot get it."""

from collections.abc import Callable
from math import log

from krona.adapter import AdapterLayer, KronLinear
from krona.errors import KronaError
from krona.inject import Adapter
from krona.kron import valid_factors


def check_one_square(adapter: Adapter, tool: str) -> None:
    """Raise unless A is the same f×f on every layer (diffusers and PEFT: decompose_factor)."""
    layers = kron_layers(adapter)
    shapes = _shapes(layers)
    if layers and (len(shapes) > 1 or shapes[0][0] != shapes[0][1]):
        raise _refusal(f"{tool} loads one square factor for all layers", layers, lambda _: True)


def check_lycoris(adapter: Adapter) -> None:
    """Raise unless LyCORIS can hold every layer's shape."""
    layers = kron_layers(adapter)
    if not all(map(fits_lycoris, layers)):
        smallest = min(min(x.base.out_features, x.base.in_features) for x in layers)
        needs = "LyCORIS loads square factors f×f with f at most d/f on every layer"
        raise _refusal(needs, layers, lambda f: f * f <= smallest)


def fits_lycoris(layer: AdapterLayer) -> bool:
    """LyCORIS derives the factors from one number f, and puts the smaller one first."""
    if not isinstance(layer, KronLinear):
        return True
    (a1, a2), (b1, b2) = layer.A.shape, layer.B.shape
    return a1 == a2 <= min(b1, b2)


def kron_layers(adapter: Adapter) -> list[KronLinear]:
    """The layers that add A ⊗ B."""
    return [layer for layer in adapter.layers.values() if isinstance(layer, KronLinear)]


def _shapes(layers: list[KronLinear]) -> list[tuple[int, int]]:
    return sorted({(layer.A.shape[0], layer.A.shape[1]) for layer in layers})


def _refusal(needs: str, layers: list[KronLinear], is_held: Callable[[int], bool]) -> KronaError:
    """Name the square nearest in a1·a2, the size of A, among those that are held."""
    shapes = _shapes(layers)
    valid = valid_factors((layer.base.out_features, layer.base.in_features) for layer in layers)
    mean_log = sum(log(a1 * a2) for a1, a2 in shapes) / len(shapes)
    squares = [a1 for a1, a2 in valid if a1 == a2 and is_held(a1)]
    f = min(squares, key=lambda f: abs(2 * log(f) - mean_log))
    return KronaError(
        f"{needs}, and this adapter has {', '.join(map(str, shapes))}; the nearest that fits is "
        f"({f}, {f}). The kohya, lora and merged formats hold the adapter as it is"
    )
