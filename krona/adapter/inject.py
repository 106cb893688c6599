"""A UNet in, adapter layers around its attention linears out; Adapter.eject puts them back.

CLIP's text encoders have the same four projections, so the same functions take them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from krona.adapter.kron import valid_factors
from krona.adapter.layers import (
    PROJECTIONS,
    AdapterConfig,
    AdapterLayer,
    KronLinear,
    LoraLinear,
    Projection,
)
from krona.errors import KronaError

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_LINEAR_PATH = re.compile(r"(?:^|\.)(?:attn[12]\.to_(q|k|v|out\.0)|self_attn\.(q|k|v|out)_proj)$")


def attention_linears(
    unet: nn.Module, targets: Iterable[Projection] = PROJECTIONS
) -> dict[str, nn.Linear]:
    """Find the target projections of every attention, in a UNet or in a CLIP text encoder.

    They are to_q, to_k, to_v, to_out.0 of attn1 and attn2, and CLIP's q_proj … out_proj.
    Returns: path → linear, in the model's own order.
    """
    wanted = set(targets)
    return {
        path: module
        for path, module in unet.named_modules()
        if isinstance(module, nn.Linear)
        and _LINEAR_PATH.search(path)
        and projection_of(path) in wanted
    }


def adapted_linears(network: nn.Module, config: AdapterConfig) -> dict[str, nn.Linear]:
    """The linears of a module, or of Base.network, that an adapter of `config` goes on, by path."""
    linears = attention_linears(network, config.targets)
    return {p: linear for p, linear in linears.items() if config.adapts_text or not is_of_text(p)}


def one_root(unet: nn.Module, text_encoders: Sequence[nn.Module]) -> nn.Module:
    """A module that holds the UNet's parts, under their own paths, and the text encoders."""
    root = _Root(unet)
    parts = dict(unet.named_children()) | dict(zip(TEXT_ENCODERS, text_encoders, strict=False))
    for name, part in parts.items():
        root.add_module(name, part)
    return root


class _Root(nn.Module):
    """What one_root() returns: a part of the UNet that is replaced in it is so in the UNet."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self._unet = (unet,)  # in a tuple it is no part itself

    def set_submodule(self, target: str, module: nn.Module, strict: bool = False) -> None:
        super().set_submodule(target, module, strict)
        if "." not in target:
            self._unet[0].set_submodule(target, module, strict)


def is_of_text(path: str) -> bool:
    """Whether a path leads into a text encoder, and not into the UNet."""
    return path.startswith(TEXT_ENCODERS)


def projection_of(path: str) -> Projection:
    """The projection of an attention linear's path: …attn1.to_out.0 and …out_proj are "o"."""
    match = _LINEAR_PATH.search(path)
    if match is None:
        raise KronaError(f"'{path}' is not the path of an attention projection")
    return cast(Projection, (match[1] or match[2])[0])


def check_fit(linears: Mapping[str, nn.Linear], config: AdapterConfig) -> None:
    """Raise unless the factors divide every layer; the message names what does."""
    if isinstance(config.factors, tuple):
        _check_divides(linears, config.factors)
        return
    for target, factors in config.factors.items():
        peers = {path: linear for path, linear in linears.items() if projection_of(path) == target}
        _check_divides(peers, factors)


def make_adapter(unet: nn.Module, config: AdapterConfig, *, seed: int) -> "Adapter":
    """Make fresh adapter layers for the target projections; the modules stay as they are.

    Args:
        unet: a UNet, a text encoder, or Base.network, whose text encoders get layers too if the
            config adapts text.
        config: kind, factors, targets and init of the layers.
        seed: of the random factors; equal seeds give bit-equal layers.
    Raises: KronaError if an adapter is already there, no linear is found, or factors do not fit.
    """
    check_is_free(unet)
    linears = adapted_linears(unet, config)
    if not linears:
        raise KronaError(
            f"no attention projection to adapt in {type(unet).__name__}; "
            "a UNet2DConditionModel has attn1 and attn2 with to_q, to_k, to_v and to_out.0"
        )
    if config.kind == "krona":
        check_fit(linears, config)
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, AdapterLayer] = {
        path: _make_layer(path, linear, config, generator) for path, linear in linears.items()
    }
    return Adapter(unet, layers, is_injected=False)


def inject(unet: nn.Module, config: AdapterConfig, *, seed: int) -> "Adapter":
    """Put the layers of make_adapter() in the places of the UNet's target projections."""
    adapter = make_adapter(unet, config, seed=seed)
    adapter.inject()
    return adapter


def inject_layers(unet: nn.Module, layers: dict[str, AdapterLayer]) -> "Adapter":
    """Put given layers, each around the UNet's own linear of that path, in their places.

    Raises: KronaError if an adapter is already there.
    """
    adapter = Adapter(unet, layers, is_injected=False)
    adapter.inject()
    return adapter


class Adapter:
    """The adapter layers in a UNet, or in Base.network, by path.

    Attributes:
        unet: holds the layers while is_injected.
        layers: path in it → layer.
        is_injected: whether the UNet holds the layers.
    """

    def __init__(
        self, unet: nn.Module, layers: dict[str, AdapterLayer], *, is_injected: bool
    ) -> None:
        self.unet = unet
        self.layers = layers
        self.is_injected = is_injected

    @property
    def adapts_text(self) -> bool:
        return any(is_of_text(path) for path in self.layers)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable factors, in a fixed order."""
        return list(self._named_parameters().values())

    @property
    def num_params(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Copy the factors: "<path>.A" and "<path>.B", or "<path>.down" and "<path>.up"."""
        return {name: p.detach().clone() for name, p in self._named_parameters().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy the factors in. Names and shapes must match exactly, or nothing is changed."""
        parameters = self._named_parameters()
        _check_names(set(state), set(parameters))
        for name, parameter in parameters.items():
            if state[name].shape != parameter.shape:
                raise KronaError(
                    f"'{name}' has the shape {tuple(state[name].shape)}, "
                    f"but this adapter's is {tuple(parameter.shape)}"
                )
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    def inject(self) -> None:
        """Put the layers around the UNet's linears. Raises: KronaError if an adapter is there."""
        check_is_free(self.unet)
        _replace(self.unet, self.layers)
        self.is_injected = True

    def eject(self) -> None:
        """Put the frozen linears back: the UNet is exactly as before. Once out, do nothing."""
        if self.is_injected:
            _replace(self.unet, {path: layer.base for path, layer in self.layers.items()})
            self.is_injected = False

    @torch.no_grad()
    def merge(self) -> None:
        """Eject, and give each linear a new weight W + delta in float32.

        Raises: KronaError on half-precision weights, whose rounding would swallow the update.
        """
        for path, layer in self.layers.items():
            if layer.base.weight.dtype not in (torch.float32, torch.float64):
                raise KronaError(
                    f"cannot merge into {layer.base.weight.dtype} weights ({path}): rounding would "
                    "swallow the update; load the base in torch.float32"
                )
        self.eject()
        for layer in self.layers.values():
            layer.base.weight = nn.Parameter(
                layer.base.weight + layer.delta(), requires_grad=layer.base.weight.requires_grad
            )

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{path}.{name}": getattr(layer, name)
            for path, layer in self.layers.items()
            for name in layer.factor_names
        }


def holds_adapter(module: nn.Module) -> bool:
    """Whether an adapter's layers are in it."""
    return any(isinstance(part, AdapterLayer) for part in module.modules())


def check_is_free(unet: nn.Module) -> None:
    """Raise KronaError if an adapter's layers are in it."""
    if holds_adapter(unet):
        raise KronaError("an adapter is already injected in this UNet; eject it first")


def _replace(unet: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for path, module in modules.items():
        unet.set_submodule(path, module, strict=True)


def _make_layer(
    path: str, linear: nn.Linear, config: AdapterConfig, generator: torch.Generator
) -> KronLinear | LoraLinear:
    if config.kind == "lora":
        return LoraLinear(
            linear, config.rank, init=config.init, scale=config.scale, generator=generator
        )
    factors = config.factors_of(projection_of(path))
    return KronLinear(linear, factors, init=config.init, scale=config.scale, generator=generator)


def _check_divides(layers: Mapping[str, nn.Linear], factors: tuple[int, int]) -> None:
    """Raise unless a1 divides every out_features and a2 every in_features, naming what does."""
    valid = valid_factors((layer.out_features, layer.in_features) for layer in layers.values())
    for axis, size_name in enumerate(("out_features", "in_features")):
        factor = factors[axis]
        fits = sorted({pair[axis] for pair in valid})
        for path, layer in layers.items():
            size = getattr(layer, size_name)
            if size % factor:
                raise KronaError(
                    f"a{axis + 1}={factor} does not divide {size_name}={size} of {path}; valid "
                    f"for all these layers (nearest {_neighbours(factor, fits)}): "
                    f"a{axis + 1} = {', '.join(map(str, fits))}"
                )


def _neighbours(value: int, valid: list[int]) -> str:
    """The valid numbers next below and next above a value."""
    below, above = [v for v in valid if v < value][-1:], [v for v in valid if v > value][:1]
    return " and ".join(map(str, below + above))


def _check_names(got: set[str], expected: set[str]) -> None:
    for problem, names in (("misses", expected - got), ("has the unknown", got - expected)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise KronaError(f"the adapter state {problem} '{min(names)}'{more}")
