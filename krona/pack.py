"""Adapters in, one UNet out that holds them all: of a batch's rows each works on its own.

Adapters of equal shapes that stand side by side, with as many rows each, share their products.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from krona import kron, lora
from krona.adapter import AdapterLayer, KronLinear, LoraLinear, PublishedKronLinear
from krona.errors import KronaError
from krona.inject import Adapter, check_is_free


class Pack:
    """Context in which the UNet holds the adapters; afterwards it is as before.

    A single adapter is injected as it is, and stays where it was injected before; none is the UNet
    as it stands.
    """

    def __init__(self, unet: nn.Module, adapters: Sequence[Adapter]) -> None:
        self._unet = unet
        self._adapters = adapters
        self._layers: dict[str, _PackedLinear] = {}
        self._was_injected = any(adapter.is_injected for adapter in adapters)
        if len(adapters) > 1:
            check_is_free(unet)
            _check_trainable(adapters)

    def __enter__(self) -> "Pack":
        if len(self._adapters) == 1:
            if not self._was_injected:
                self._adapters[0].inject()
            return self
        paths = dict.fromkeys(path for adapter in self._adapters for path in adapter.layers)
        for path in paths:
            members = [adapter.layers.get(path) for adapter in self._adapters]
            self._layers[path] = _PackedLinear(members)
        for path, layer in self._layers.items():
            self._unet.set_submodule(path, layer, strict=True)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if len(self._adapters) == 1 and not self._was_injected:
            self._adapters[0].eject()
        for path, layer in self._layers.items():
            self._unet.set_submodule(path, layer.base, strict=True)

    def set_rows(self, rows: Sequence[int]) -> None:
        """Say how many rows of the next batches are each adapter's, in the adapters' order."""
        for layer in self._layers.values():
            layer.set_rows(rows)


def _check_trainable(adapters: Sequence[Adapter]) -> None:
    layers = chain.from_iterable(adapter.layers.values() for adapter in adapters)
    if any(isinstance(layer, PublishedKronLinear) for layer in layers):
        raise KronaError(
            "a checkpoint of DiffuseKronA's published code shares no batch with other adapters; "
            "use it alone"
        )


@dataclass(frozen=True, kw_only=True)
class _Stack:
    """Layers of equal shapes whose rows follow each other, as many for each."""

    rows: slice
    layers: tuple[KronLinear | LoraLinear, ...]

    @property
    def math(self) -> Any:
        """The module of the layers' add_update() and gradients()."""
        return kron if isinstance(self.layers[0], KronLinear) else lora

    @property
    def scale(self) -> float:
        return self.layers[0].scale

    def factors(self) -> list[Tensor]:
        """Both of each layer in turn."""
        return [factor for layer in self.layers for factor in _factors(layer)]

    def cut(self, batch: Tensor) -> Tensor:
        """Its rows of a batch (rows, ..., width): (T, width), a stack of them if it has layers."""
        stack = () if len(self.layers) == 1 else (len(self.layers),)
        return batch[self.rows].reshape(*stack, -1, batch.shape[-1])


class _PackedLinear(nn.Module):
    """A frozen linear layer with a layer of each adapter, or None, around it."""

    def __init__(self, members: Sequence[AdapterLayer | None]) -> None:
        super().__init__()
        self.base = next(layer.base for layer in members if layer is not None)
        self._members = members
        self._num_rows = 0
        self._stacks: list[_Stack] = []

    def set_rows(self, rows: Sequence[int]) -> None:
        self._num_rows = sum(rows)
        self._stacks = []
        for layer, num, end in zip(self._members, rows, accumulate(rows), strict=True):
            if num and isinstance(layer, KronLinear | LoraLinear):
                self._append(layer, slice(end - num, end))

    def _append(self, layer: KronLinear | LoraLinear, rows: slice) -> None:
        """Let the layer join the last stack, where it is alike and the rows follow, or open one."""
        layers: tuple[KronLinear | LoraLinear, ...] = (layer,)
        if self._stacks:
            last = self._stacks[-1]
            num_each = (last.rows.stop - last.rows.start) // len(last.layers)
            is_next = last.rows.stop == rows.start and num_each == rows.stop - rows.start
            if is_next and _are_alike(last.layers[0], layer):
                rows, layers = slice(last.rows.start, rows.stop), last.layers + layers
                self._stacks.pop()
        self._stacks.append(_Stack(rows=rows, layers=layers))

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != self._num_rows:
            raise KronaError(f"the pack was told of {self._num_rows} rows, the batch has {len(x)}")
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        factors = [factor for stack in self._stacks for factor in stack.factors()]
        weight, bias = self.base.weight, self.base.bias
        result: Tensor = _Packed.apply(x, weight, bias, dtype, self._stacks, *factors)
        return result


def _factors(layer: KronLinear | LoraLinear) -> list[Tensor]:
    return [getattr(layer, name) for name in layer.factor_names]


def _are_alike(one: KronLinear | LoraLinear, other: KronLinear | LoraLinear) -> bool:
    return (
        type(one) is type(other)
        and one.scale == other.scale
        and [f.shape for f in _factors(one)] == [f.shape for f in _factors(other)]
    )


class _Packed(torch.autograd.Function):
    """The frozen product of all rows, and each stack's update on its own; rows never mix.

    Saved for the backward: as in krona.kron, x and the stacks' small inner products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        stacks: Sequence[_Stack],
        *factors: Tensor,
    ) -> Tensor:
        batch = x.to(dtype)
        y = F.linear(batch, weight.to(dtype), None if bias is None else bias.to(dtype))
        inners: list[Tensor | None] = []
        for stack, left, right in _stacked(stacks, factors):
            rows = stack.cut(batch)
            inner = stack.math.add_update(stack.cut(y), rows, left, right, stack.scale)
            inners.append(inner if 2 * inner.numel() <= rows.numel() else None)
        ctx.save_for_backward(x, weight, *factors, *inners)
        ctx.stacks = stacks
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        stacks = ctx.stacks
        num_factors = len(saved) - len(stacks)
        factors, inners = saved[:num_factors], saved[num_factors:]
        batch = x.to(grad.dtype)
        grad_x = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        grads: list[Tensor] = []
        for (stack, left, right), inner in zip(_stacked(stacks, factors), inners, strict=True):
            pair = stack.math.gradients(
                None if grad_x is None else stack.cut(grad_x),
                stack.cut(grad),
                stack.cut(batch),
                left,
                right,
                inner,
                stack.scale,
                (True, True),
            )
            grads += pair if len(stack.layers) == 1 else chain(*zip(*pair, strict=True))
        return grad_x, None, None, None, None, *grads


def _stacked(
    stacks: Sequence[_Stack], factors: tuple[Tensor, ...] | list[Tensor]
) -> Iterator[tuple[_Stack, Tensor, Tensor]]:
    """Each stack with its left factors and its right ones; a single layer's as they are."""
    start = 0
    for stack in stacks:
        lefts, rights = (factors[start + i : start + 2 * len(stack.layers) : 2] for i in (0, 1))
        start += 2 * len(stack.layers)
        if len(stack.layers) == 1:
            yield stack, lefts[0], rights[0]
        else:
            yield stack, torch.stack(lefts), torch.stack(rights)
