"""A device that is not the CPU, for machines that have no other: programs in, its refusals out.

Its tensors hold their values in main memory, and every operator on them is computed there, so that
a run on it can be compared with one on the CPU. In the way of a GPU it refuses operators that mix
its tensors with the CPU's (but for single numbers), and random generators of the CPU's; it notes
where the host waits for it, and has as much memory as a test gives it.

It knows nothing of kernels, streams, pinned memory, or the time that anything takes.
"""

import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "rehearsal"
_ROOT = Path(__file__).parents[2]
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_ASKS_FOR_VALUES = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten._unique2.default,
    _aten.repeat_interleave.Tensor,
}
_BY_INDEX = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}


class _Memory:
    """Bytes of the device's tensors that are alive."""

    def __init__(self) -> None:
        self.used_bytes = self.peak_bytes = 0
        self.limit_bytes: int | None = None
        self._known: set[int] = set()

    def hold(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key, num_bytes = int(storage._cdata), storage.nbytes()
        if key in self._known:
            return
        if self.limit_bytes is not None and self.used_bytes + num_bytes > self.limit_bytes:
            raise torch.OutOfMemoryError(
                f"{NAME} out of memory: {num_bytes} bytes beside {self.used_bytes}"
            )
        self._known.add(key)
        self.used_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        weakref.finalize(storage, self._release, key, num_bytes)

    def _release(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.used_bytes -= num_bytes


memory = _Memory()
_waits: list[str] = []


@contextmanager
def limited(num_bytes: int) -> Iterator[None]:
    """Give the device so many bytes more than are in use now."""
    memory.limit_bytes = memory.used_bytes + num_bytes
    try:
        yield
    finally:
        memory.limit_bytes = None


@contextmanager
def waits() -> Iterator[list[str]]:
    """Where the host waits for the device within the block: the operator, and the line of krona."""
    _waits.clear()
    yield _waits


class Held(Tensor):
    """A tensor of the device; `value` is what it holds."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "Held":
        memory.hold(value)
        held = torch.Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=torch.device(NAME, 0),
        )
        held.value = value
        return held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    @property
    def data(self) -> Any:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, other: "Held") -> None:
        Tensor.data.__set__(self, other)
        self.value = other.value

    def tolist(self) -> Any:
        return self.cpu().tolist()  # torch's own is not for subclasses

    def __repr__(self) -> str:
        return f"Held({self.value!r})"


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute func of the held values."""
    if func is _aten._fused_sdp_choice.default:
        return 0  # plain attention: the others are kernels of one device
    if func._can_decompose():  # in inference mode it has not been
        return func.decompose(*args, **kwargs)
    if func in _COPIES:
        return _copy(func, args, kwargs)
    _check(func, tree_leaves((args, kwargs)))
    if func in _ASKS_FOR_VALUES or (func in _BY_INDEX and _has_mask(args[1])):
        _note(func)
    return _held(func, args, kwargs)


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Copy within the device, to it or from it; the host waits unless it goes there unhurried."""
    source = args[0] if func is _aten._to_copy.default else args[1]
    if func is _aten._to_copy.default:
        is_non_blocking = kwargs.get("non_blocking", False)
        to = kwargs.get("device")
        goes_here = isinstance(source, Held) if to is None else torch.device(to).type == NAME
    else:
        is_non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        goes_here = isinstance(args[0], Held)
    if goes_here != isinstance(source, Held) and not (goes_here and is_non_blocking):
        _note(func)
    if goes_here:
        return _held(func, args, kwargs)
    result = func(*tree_map(_value, args), **tree_map(_value, kwargs))
    return args[0] if func is _aten.copy_.default else result


@torch.inference_mode(False)  # a view of an inference tensor cannot be wrapped
def _held(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*tree_map(_value, args), **tree_map(_value, kwargs))
    held = tree_map(lambda x: Held(x) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(func, args, kwargs, held)


def _value(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == NAME:
        return torch.device("cpu")
    return x.value if isinstance(x, Held) else x


def _check(func: Any, leaves: Sequence[Any]) -> None:
    """Refuse tensors and generators of the CPU; a single number is as good as one in the code."""
    for leaf in leaves:
        if isinstance(leaf, Tensor) and not isinstance(leaf, Held) and leaf.dim():
            raise RuntimeError(
                f"{func} got a tensor {tuple(leaf.shape)} of {leaf.device} beside those of {NAME}"
            )
        if isinstance(leaf, torch.Generator):
            raise RuntimeError(f"{func} on {NAME} got a generator of {leaf.device}")


def _has_mask(indices: Sequence[Tensor | None]) -> bool:
    """Whether the size of the result is known to the device alone."""
    return any(index is not None and index.dtype == torch.bool for index in indices)


def _note(func: Any) -> None:
    ours = [
        f"{Path(frame.filename).relative_to(_ROOT)}:{frame.lineno}"
        for frame in traceback.extract_stack()
        if Path(frame.filename).is_relative_to(_ROOT / "krona")
        or Path(frame.filename).is_relative_to(_ROOT / "evals")
    ]
    _waits.append(f"{func} at {ours[-1] if ours else 'a test'}")


class _Module:
    """What torch asks of a device's module."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None: ...

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


_libraries: list[torch.library.Library] = []  # what they register goes when they go


def _register() -> None:
    """Tell torch of the device; it has room for one beside the CPU."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    kernels = torch.library.Library("aten", "IMPL")
    for func in (_aten.empty.memory_format, _aten.empty_strided.default):
        kernels.impl(
            func, lambda *args, func=func, **kwargs: _run(func, args, kwargs), "PrivateUse1"
        )
    kernels.impl("_copy_from", _copy_from, "PrivateUse1")
    casts = torch.library.Library("_", "IMPL")  # there are none, but for what asks for one itself
    casts.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _libraries.extend((kernels, casts))


def _copy_from(source: Tensor, to: Tensor, is_non_blocking: bool = False) -> Tensor:
    copied: Tensor = _copy(_aten.copy_.default, (to, source, is_non_blocking), {})
    return copied


if not torch.cuda.is_available():
    _register()
