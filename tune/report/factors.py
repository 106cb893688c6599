"""What an adapter changes, layer by layer: factors in; energies, spectra, ‖ΔW‖/‖W‖ out.

Legend: ΔW = scale·A ⊗ B is a layer's update of its frozen weight W; ‖·‖ is the Frobenius norm, and
the energy of an update ‖ΔW‖² = scale²·‖A‖²·‖B‖². The singular values of A ⊗ B are all products of
one of A's and one of B's, so two short spectra tell all of a long one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from krona.adapter.inject import is_of_text, projection_of
from krona.base.weight_norms import weight_norms
from krona.errors import KronaError
from krona.exchange.adapter_file import Manifest, load_adapter

_BLOCK = re.compile(r"^(down|up|mid)_block(?:s\.(\d+))?\.attentions\.(\d+)")
_NAMES = {"down": "down {} · {}", "up": "up {} · {}", "mid": "middle"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One adapted layer: where it is, what its update weighs, the spectra of its factors.

    energy: ‖ΔW‖².  spectrum_a, spectrum_b: singular values of A and B, falling.
    weight_norm: ‖W‖, None where the base is not at hand.
    """

    path: str
    energy: float
    spectrum_a: tuple[float, ...]
    spectrum_b: tuple[float, ...]
    weight_norm: float | None = None

    @property
    def block(self) -> str:
        """The part of the network: "down 0 · 1" is the second attention of the first level down."""
        if is_of_text(self.path):
            return self.path.partition(".")[0].replace("_", " ")
        match = _BLOCK.match(self.path)
        return _NAMES[match[1]].format(match[2], match[3]) if match else self.path.split(".")[0]

    @property
    def projection(self) -> str:
        """Which attention it serves, and as what: "cross k" reads the prompt."""
        kind = "cross" if ".attn2." in self.path else "self"
        return f"{kind} {projection_of(self.path)}"


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The layers of an adapter; why ‖W‖ is not known, if it is not."""

    layers: tuple[Layer, ...]
    without_base: str = ""


def read_factors(path: Path) -> Factors:
    """Take apart the adapter of a file; the base is read for ‖W‖ if it lies here.

    Raises: KronaError for a file that holds no Kronecker adapter.
    """
    state, manifest = load_adapter(path)
    if manifest.kind != "krona":
        raise KronaError(f"{path} holds a {manifest.kind} adapter, which has no A ⊗ B")
    pairs = {name.removesuffix(".A"): name for name in state if name.endswith(".A")}
    norms, reason = _weight_norms(manifest, pairs)
    layers = tuple(
        make_layer(
            layer,
            state[name],
            state[f"{layer}.B"],
            scale=manifest.config.scale,
            weight_norm=norms.get(layer),
        )
        for layer, name in pairs.items()
    )
    return Factors(layers=layers, without_base=reason)


def make_layer(
    path: str, A: Tensor, B: Tensor, *, scale: float, weight_norm: float | None = None
) -> Layer:
    """Weigh the update scale·A ⊗ B without forming it.

    Args:
        A: (a1, a2) left factor.  B: (b1, b2) right factor.
    Cost: the singular values of A and of B.
    """
    spectrum_a, spectrum_b = (torch.linalg.svdvals(factor.double()) for factor in (A, B))
    energy = scale**2 * spectrum_a.square().sum() * spectrum_b.square().sum()
    return Layer(
        path=path,
        energy=float(energy),
        spectrum_a=tuple(spectrum_a.tolist()),
        spectrum_b=tuple(spectrum_b.tolist()),
        weight_norm=weight_norm,
    )


def energy_shares(layers: Sequence[Layer]) -> dict[tuple[str, str], float]:
    """The share of all energy in each (block, projection)."""
    total = sum(layer.energy for layer in layers) or 1.0
    return {cell: sum(x.energy for x in xs) / total for cell, xs in _by_cell(layers).items()}


def relative_norms(layers: Sequence[Layer]) -> dict[tuple[str, str], float]:
    """‖ΔW‖/‖W‖ of each (block, projection), its layers taken as one; empty without ‖W‖."""
    if any(layer.weight_norm is None for layer in layers):
        return {}
    return {
        cell: (sum(x.energy for x in xs) / (_sum_of_squares(xs) or 1.0)) ** 0.5
        for cell, xs in _by_cell(layers).items()
    }


def stable_rank(spectrum: Sequence[float]) -> float:
    """‖A‖²/σ₁²: 1 if one direction holds everything, the full rank if all weigh the same."""
    largest = max(spectrum, default=0.0)
    return sum((s / largest) ** 2 for s in spectrum) if largest else 0.0


def median_stable_ranks(layers: Sequence[Layer]) -> tuple[float, float]:
    """Of A and of B, over the layers."""
    spectra: list[Callable[[Layer], tuple[float, ...]]] = [
        lambda layer: layer.spectrum_a,
        lambda layer: layer.spectrum_b,
    ]
    of_a, of_b = (median(stable_rank(get(layer)) for layer in layers) for get in spectra)
    return of_a, of_b


def _by_cell(layers: Sequence[Layer]) -> dict[tuple[str, str], list[Layer]]:
    cells: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        cells.setdefault((layer.block, layer.projection), []).append(layer)
    return cells


def _sum_of_squares(layers: Sequence[Layer]) -> float:
    return sum((layer.weight_norm or 0.0) ** 2 for layer in layers)


def _weight_norms(manifest: Manifest, paths: Mapping[str, str]) -> tuple[dict[str, float], str]:
    """‖W‖ by layer, or why it is not known."""
    try:
        return weight_norms(manifest.source, paths, base_hash=manifest.base_hash), ""
    except (KronaError, OSError) as error:
        return {}, str(error)
