"""A base's name and a memory budget in; out, the Kronecker factors that there is room for."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from krona.adapter.inject import adapted_linears, one_root
from krona.adapter.kron import num_kron_params, valid_factors
from krona.adapter.layers import AdapterConfig, Factors
from krona.base.checkpoint import Savings
from krona.base.skeleton import build_skeleton
from krona.base.source import BaseSource
from krona.errors import KronaError, nearest_pair
from krona.planning.budget import GIB, fit_factors
from krona.planning.plan import PlanConfig

LARGEST_LORA_RANK = 64

Shape = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Room:
    """What may be trained on a base, and how it is loaded for that.

    Attributes:
        factors: pairs (a1, a2), ascending by (a1·a2, a1).
        savings: what keeps the largest of their adapters within the memory budget.
    """

    factors: tuple[Factors, ...]
    savings: Savings


def make_room(
    base: str | BaseSource,
    config: PlanConfig,
    budget_bytes: int | None,
    *,
    factors: tuple[Factors, ...] | None = None,
    max_params: int | None = None,
) -> Room:
    """Find the factors that may be searched on a base; only its configs are read.

    Args:
        base: as make_plan() takes it.
        config: of every run; its factors are not read.
        budget_bytes: on the device, None for no limit.
        factors: those that are asked for; all that divide every layer if not given.
        max_params: of the largest adapter; if neither is given, those of a LoRA of rank 64.
    Raises: KronaError if factors that are asked for divide not every layer or do not fit into the
        budget, or if no adapter is small enough.
    """
    shapes = _layer_shapes(base, config.adapter)
    sizes = _sizes(shapes, factors)
    if max_params is None and factors is None:
        max_params = LARGEST_LORA_RANK * sum(map(sum, shapes))
    sizes = _up_to(max_params, sizes)
    savings, fitting = fit_factors(base, config, budget_bytes, sizes)
    for pair in factors or ():
        if budget_bytes is not None and pair in sizes and pair not in fitting:
            raise KronaError(
                f"factors {pair} have {sizes[pair]:,} parameters, too many for "
                f"{budget_bytes / GIB:.2f} GiB; nearest that fit: {nearest_pair(pair, fitting)}"
            )
    return Room(factors=fitting, savings=savings)


def _layer_shapes(base: str | BaseSource, config: AdapterConfig) -> list[Shape]:
    """(out, in) of every layer that an adapter may go on."""
    with torch.device("meta"):
        skeleton = build_skeleton(base)
    network = one_root(skeleton.unet, skeleton.text_encoders)
    layers = adapted_linears(network, config).values()
    return [(layer.out_features, layer.in_features) for layer in layers]


def _sizes(shapes: list[Shape], asked: tuple[Factors, ...] | None) -> dict[Factors, int]:
    """Parameters of the adapter of each pair, in the order of valid_factors()."""
    valid = valid_factors(shapes)
    for pair in asked or ():
        if pair not in valid:
            raise KronaError(
                f"factors {pair} do not divide every adapted layer; nearest that do: "
                f"{nearest_pair(pair, valid)}"
            )
    return {
        pair: sum(num_kron_params(shape, *pair) for shape in shapes)
        for pair in valid
        if asked is None or pair in asked
    }


def _up_to(max_params: int | None, sizes: Mapping[Factors, int]) -> dict[Factors, int]:
    kept = {pair: num for pair, num in sizes.items() if max_params is None or num <= max_params}
    if not kept:
        least = min(sizes, key=lambda pair: sizes[pair])
        raise KronaError(
            f"max_params={max_params} leaves no factors to search; the smallest adapter, {least}, "
            f"has {sizes[least]:,} parameters"
        )
    return kept
