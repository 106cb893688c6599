"""The tensors of one LoKr layer in, A and B out; and the layer around the linear that they fit."""

from collections.abc import Container, Iterable, Mapping

from torch import Tensor, nn

from krona.adapter.inject import is_of_text
from krona.adapter.layers import KronLinear
from krona.errors import KronaError

Parts = dict[str, Tensor]
_KNOWN = {f"lokr_w{i}{part}" for i in (1, 2) for part in ("", "_a", "_b")} | {"alpha"}


def by_layer(tensors: Mapping[str, Tensor]) -> dict[str, Parts]:
    """Group "<layer>.<part>" tensors by layer: matrices, and numbers called alpha.

    Raises: KronaError for parts that change the sum, or have another shape.
    """
    layers: dict[str, Parts] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part not in _KNOWN:
            raise KronaError(
                f"'{name}' is no part of a LoKr of linear layers; krona reads no other"
            )
        if tensor.numel() != 1 if part == "alpha" else tensor.ndim != 2 or not tensor.numel():
            wanted = "number" if part == "alpha" else "matrix"
            raise KronaError(f"'{name}' of shape {tuple(tensor.shape)} is no {wanted}")
        layers.setdefault(layer, {})[part] = tensor
    return layers


def _factor(layer: str, parts: Parts, which: int) -> Tensor:
    """lokr_w1 or lokr_w2 of a layer, multiplied out where it is stored as a product."""
    name = f"lokr_w{which}"
    whole, left, right = (parts.get(f"{name}{part}") for part in ("", "_a", "_b"))
    if whole is not None:
        return whole.float()
    if left is None or right is None or left.shape[1] != len(right):
        raise KronaError(f"layer {layer} has no {name}, and no {name}_a and {name}_b that multiply")
    return left.float() @ right.float()


def lora_dim(parts: Parts) -> int | None:
    """The inner size of a factor that is stored as a product; None where both are whole."""
    products = [parts[f"lokr_w{i}_b"] for i in (1, 2) if f"lokr_w{i}_b" in parts]
    return len(products[0]) if products else None


def kron_layer(name: str, linear: nn.Linear, parts: Parts, scale: float) -> KronLinear:
    """The layer of scale·A ⊗ B around a linear. Raises: KronaError if they do not fit it."""
    A, B = _factor(name, parts, 1), scale * _factor(name, parts, 2)
    (a1, a2), (b1, b2) = A.shape, B.shape
    if (a1 * b1, a2 * b2) != (linear.out_features, linear.in_features):
        raise KronaError(
            f"the file's {name} is {a1 * b1}×{a2 * b2}, and the base's layer is "
            f"{linear.out_features}×{linear.in_features}; give the base it was made for"
        )
    return KronLinear.of(linear, A, B)


def readable_linears(network: nn.Module) -> dict[str, nn.Linear]:
    """Every linear in the attention blocks of Base.network, text encoders' layers too, by path."""
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and (".layers." if is_of_text(path) else ".attentions.") in path
    }


def check_known(names: Iterable[str], linears: Container[str]) -> None:
    """Raise for the names that are none of the linears."""
    odd = sorted(name for name in names if name not in linears)
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise KronaError(
            f"{odd[0]}{more} is no linear layer in an attention block of this base; adapters of "
            "convolutions are not read"
        )
