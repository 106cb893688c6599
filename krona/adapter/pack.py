"""Adapters in, one UNet out that holds them all: of a batch's rows each works on its own."""

from collections.abc import Sequence
from itertools import chain
from types import TracebackType

from torch import nn

from krona.adapter.inject import Adapter, check_is_free
from krona.adapter.layers import PublishedKronLinear
from krona.adapter.packed import PackedLinear
from krona.errors import KronaError


class Pack:
    """Context in which the UNet holds the adapters; afterwards it is as before.

    A single adapter is injected as it is, and stays where it was injected before; none is the UNet
    as it stands.
    """

    def __init__(self, unet: nn.Module, adapters: Sequence[Adapter]) -> None:
        self._unet = unet
        self._adapters = adapters
        self._layers: dict[str, PackedLinear] = {}
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
            self._layers[path] = PackedLinear(members)
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
