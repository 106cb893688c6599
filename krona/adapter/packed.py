"""One frozen linear and the layers of many adapters on it: each has rows of the batch for itself.

Layers of equal shapes that stand side by side, with as many rows each, share factored products. On
a narrow linear, layers of unlike shapes have their weights W + ΔW formed instead: products of whole
small matrices take less time there than the calls for a few smaller ones of each shape.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from krona.adapter import kron, lora
from krona.adapter.layers import AdapterLayer, KronLinear, LoraLinear
from krona.errors import KronaError

_MOST_FORMED = 2**16  # entries of a weight, as of 256 x 256


class PackedLinear(nn.Module):
    """A frozen linear layer with a layer of each adapter, or None, around it."""

    def __init__(self, members: Sequence[AdapterLayer | None]) -> None:
        super().__init__()
        self.base = next(layer.base for layer in members if layer is not None)
        self._members = members
        self._num_rows = 0
        self._stacks: list[_Stack] = []
        self._formed: list[KronLinear | LoraLinear | None] = []

    def set_rows(self, rows: Sequence[int]) -> None:
        """Say how many rows of the next batches are each layer's, in the same order."""
        self._num_rows = sum(rows)
        self._stacks = []
        for layer, num, end in zip(self._members, rows, accumulate(rows), strict=True):
            if num and isinstance(layer, KronLinear | LoraLinear):
                self._append(layer, slice(end - num, end))
        self._formed = self._layers_to_form(rows)

    def _layers_to_form(self, rows: Sequence[int]) -> list[KronLinear | LoraLinear | None]:
        """The layers whose weights are best formed, of all that have rows, or none of them."""
        is_narrow = self.base.weight.numel() <= _MOST_FORMED
        if not is_narrow or len(self._stacks) < 2 or len({*rows} - {0}) > 1:
            return []
        present = [layer for layer, num in zip(self._members, rows, strict=True) if num]
        return [x if isinstance(x, KronLinear | LoraLinear) else None for x in present]

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
        weight, bias = self.base.weight, self.base.bias
        if self._formed and kron.is_exact(x) and x.dtype == weight.dtype:
            factors = [f for layer in self._formed if layer is not None for f in _factors(layer)]
            formed: Tensor = _Formed.apply(x, weight, bias, self._formed, *factors)
            return formed
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        factors = [factor for stack in self._stacks for factor in stack.factors()]
        result: Tensor = _Factored.apply(x, weight, bias, dtype, self._stacks, *factors)
        return result


@dataclass(frozen=True, kw_only=True)
class _Stack:
    """Layers of equal shapes whose rows follow each other, as many for each."""

    rows: slice
    layers: tuple[KronLinear | LoraLinear, ...]

    @property
    def math(self) -> Any:
        return _math(self.layers[0])

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


def _factors(layer: KronLinear | LoraLinear) -> list[Tensor]:
    return [getattr(layer, name) for name in layer.factor_names]


def _are_alike(one: KronLinear | LoraLinear, other: KronLinear | LoraLinear) -> bool:
    return (
        type(one) is type(other)
        and one.scale == other.scale
        and [f.shape for f in _factors(one)] == [f.shape for f in _factors(other)]
    )


class _Factored(torch.autograd.Function):
    """The frozen product of all rows, and each stack's update on its own; rows never mix.

    Saved for the backward: as in krona.adapter.kron, x and the stacks' small inner products.
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


class _Formed(torch.autograd.Function):
    """The rows of each layer, as many for each, times its own W + scale·ΔW; no layer is ΔW = 0.

    Saved for the backward: x and the formed weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layers: Sequence[KronLinear | LoraLinear | None],
        *factors: Tensor,
    ) -> Tensor:
        weights = weight.repeat(len(layers), 1, 1)
        for layer, whole in zip(layers, weights, strict=True):
            if layer is not None:
                whole.add_(layer.delta())
        rows = x.reshape(len(layers), -1, x.shape[-1])
        y = rows.bmm(weights.mT) if bias is None else torch.baddbmm(bias, rows, weights.mT)
        ctx.save_for_backward(x, weights, *factors)
        ctx.layers = layers
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, *factors = ctx.saved_tensors
        pairs = iter(zip(factors[::2], factors[1::2], strict=True))
        G, rows = (t.reshape(len(weights), -1, t.shape[-1]) for t in (grad, x))
        grad_x = G.bmm(weights).view_as(x) if ctx.needs_input_grad[0] else None
        grads: list[Tensor] = []
        of_wholes = G.mT.bmm(rows).to(factors[0].dtype)
        for layer, of_whole in zip(ctx.layers, of_wholes, strict=True):
            if layer is not None:
                pair = _math(layer).form_gradients(of_whole, *next(pairs))
                grads += [of_factor * layer.scale for of_factor in pair]
        return grad_x, None, None, None, *grads


def _math(layer: KronLinear | LoraLinear) -> Any:
    """The module of a layer's products."""
    return kron if isinstance(layer, KronLinear) else lora
