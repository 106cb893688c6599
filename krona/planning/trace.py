"""A forward pass over fake tensors in; out, what one training step costs: FLOPs and bytes.

Nothing is computed: every operator only tells the shape of its result. The same functions take real
tensors, and then count what really happens.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def _product_flops(_: Any, left: Tensor, right: Tensor, **unused: Any) -> int:
    """FLOPs of an added product: left (..., n, k), right (..., k, m)."""
    return 2 * left.numel() * right.shape[-1]


# torch's own formulas (2.15) know only the operators that make a new tensor.
_FLOPS = {
    **flop_registry,
    torch.ops.aten.addmm_: _product_flops,
    torch.ops.aten.baddbmm_: _product_flops,
}


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one forward and backward pass costs, the optimizer's update aside.

    Attributes:
        forward_flops, backward_flops: of matrix products, convolutions and attention; a multiply
            and an add are two.
        saved_bytes: what the forward keeps for the backward, weights aside, each storage once.
        peak_bytes: most bytes alive at once of what the step makes, saved_bytes included.
    """

    forward_flops: int
    backward_flops: int
    saved_bytes: int
    peak_bytes: int


def trace_step(forward: Callable[[], Tensor], modules: Iterable[nn.Module]) -> StepCost:
    """Run forward() and the backward of its mean square, and count.

    Args:
        forward: the prediction of `modules`; something in it must need a gradient.
        modules: their parameters and buffers are there before the step, and are not counted.
    """
    resident = _resident(modules)
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved.add(kept := _Saved(tensor))
        return kept

    with _Observer(resident) as seen:
        with saved_tensors_hooks(pack, lambda kept: kept.tensor):
            loss = forward().float().square().mean()
        storages = {_key(kept.tensor): kept.tensor.untyped_storage().nbytes() for kept in saved}
        forward_flops = seen.flops
        loss.backward()  # type: ignore[no-untyped-call]
    return StepCost(
        forward_flops=forward_flops,
        backward_flops=seen.flops - forward_flops,
        saved_bytes=sum(size for key, size in storages.items() if key not in resident),
        peak_bytes=seen.peak_bytes,
    )


def trace_forward(forward: Callable[[], object], modules: Iterable[nn.Module]) -> int:
    """Most bytes alive at once of what forward() makes, without gradients; as trace_step()."""
    with torch.no_grad(), _Observer(_resident(modules)) as seen:
        forward()
    return int(seen.peak_bytes)


def _resident(modules: Iterable[nn.Module]) -> set[int]:
    return {_key(t) for module in modules for t in (*module.parameters(), *module.buffers())}


@dataclass(frozen=True, eq=False)
class _Saved:
    """What a node of autograd's graph keeps; it goes when the node goes."""

    tensor: Tensor


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators' FLOPs, and the bytes of the storages that they make while these live."""

    def __init__(self, resident: Iterable[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = set(resident)
        self.flops = self.peak_bytes = self._bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if formula := _FLOPS.get(func.overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in self._known:
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._known.add(_key(tensor))
        self._bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        weakref.finalize(storage, self._remove, _key(tensor), storage.nbytes())

    def _remove(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._bytes -= num_bytes


def _key(tensor: Tensor) -> int:
    """What views of one storage have in common, and no two living storages."""
    return int(tensor.untyped_storage()._cdata)
