"""What an adapter is: AdapterConfig, and the layers it puts around a frozen nn.Linear."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krona.adapter.init import Init, random_factor
from krona.adapter.kron import kron_linear
from krona.adapter.lora_conv import LoraConv
from krona.errors import KronaError, check_choice, nearest

Kind = Literal["krona", "lora"]
Projection = Literal["q", "k", "v", "o"]
Factors = tuple[int, int]

PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The shape of an adapter and its start; validated when built.

    Attributes:
        kind: "krona" adds scale·A ⊗ B to each target layer, "lora" adds scale·up·down.
        factors: (a1, a2), the shape of A, for all projections or for each (krona only).
        rank: rows of down (lora only).
        targets: attention projections to adapt; kept in the order q, k, v, o.
        init: law of the random factor; the other starts at zero. "normal" has the standard
            deviation 1/a1, or 1/rank, as the published code has it; "kaiming" is torch's for a
            linear layer, uniform in ±1/√fan-in. The fan-in of A is a1, as that code holds A as the
            weight of a layer from a1 to a2; that of down is the layer's own.
        scale: constant that multiplies the update.
        adapts_text: the text encoders get layers too, of the same factors or rank.
    """

    kind: Kind = "krona"
    factors: Factors | Mapping[Projection, Factors] = (64, 8)
    rank: int = 4
    targets: tuple[Projection, ...] = PROJECTIONS
    init: Init = "normal"
    scale: float = 1.0
    adapts_text: bool = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(Kind))
        check_choice("init", self.init, get_args(Init))
        for target in self.targets:
            check_choice("target", target, PROJECTIONS)
        if not self.targets:
            raise KronaError(f"targets is empty; choose some of {', '.join(PROJECTIONS)}")
        if not _is_count(self.rank):
            raise KronaError(f"rank={self.rank!r} is not a positive integer")
        if not isfinite(self.scale):
            raise KronaError(f"scale={self.scale} is not finite")
        object.__setattr__(self, "targets", tuple(p for p in PROJECTIONS if p in self.targets))
        object.__setattr__(self, "factors", _check_factors(self.factors, self.targets))

    def factors_of(self, projection: Projection) -> Factors:
        """The (a1, a2) of one projection."""
        if isinstance(self.factors, Mapping):
            return self.factors[projection]
        return self.factors

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; from_dict reads them back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["targets"] = list(self.targets)
        if isinstance(self.factors, Mapping):
            values["factors"] = {p: list(pair) for p, pair in self.factors.items()}
        else:
            values["factors"] = list(self.factors)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AdapterConfig":
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise KronaError(f"unknown adapter setting '{name}'; {nearest(name, known)}")
        return cls(**values)


class KronLinear(nn.Module):
    """A frozen linear layer plus scale·A ⊗ B, which is never formed in the forward.

    Args:
        base: (out, in) layer; it stays as it is.
        factors: (a1, a2), dividing out and in.
        generator: draws A on the CPU; B starts at zero, so the output starts bit-equal to base's.
    """

    factor_names: ClassVar[tuple[str, str]] = ("A", "B")

    def __init__(
        self,
        base: nn.Linear,
        factors: Factors,
        *,
        init: Init,
        scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        a1, a2 = factors
        self.base = base
        self.scale = scale
        device = base.weight.device
        b_shape = base.out_features // a1, base.in_features // a2
        self.A = nn.Parameter(random_factor(factors, init, generator, fan_in=a1).to(device))
        self.B = nn.Parameter(torch.zeros(b_shape, device=device))

    @classmethod
    def of(cls, base: nn.Linear, A: Tensor, B: Tensor) -> "KronLinear":
        """The layer of given factors A (a1, a2) and B (b1, b2), which fit base; its scale is 1."""
        a1, a2 = A.shape
        layer = cls(base, (a1, a2), init="kaiming", scale=1.0, generator=torch.Generator())
        layer.A.data.copy_(A)
        layer.B.data.copy_(B)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return kron_linear(x, self.base.weight, self.base.bias, self.A, self.B, self.scale)

    @torch.no_grad()
    def delta(self) -> Tensor:
        """(out, in) float32 update of the weight."""
        return self.scale * torch.kron(self.A, self.B)


class LoraLinear(nn.Module):
    """A frozen linear layer plus scale·up·down: the baseline, with KronLinear's interface.

    Args:
        base: (out, in) layer; it stays as it is.
        rank: rows of down (rank, in) and columns of up (out, rank).
        generator: draws down on the CPU; up starts at zero.
    """

    factor_names: ClassVar[tuple[str, str]] = ("down", "up")

    def __init__(
        self, base: nn.Linear, rank: int, *, init: Init, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        device = base.weight.device
        shape = rank, base.in_features
        down = random_factor(shape, init, generator, fan_in=base.in_features)
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    @classmethod
    def of(cls, base: nn.Linear, down: Tensor, up: Tensor) -> "LoraLinear":
        """The layer of given down (rank, in) and up (out, rank); its scale is 1."""
        layer = cls(base, len(down), init="kaiming", scale=1.0, generator=torch.Generator())
        layer.down.data.copy_(down)
        layer.up.data.copy_(up)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.linear(x, self.down.to(x.dtype))
        update = F.linear(hidden, self.up.to(hidden.dtype))
        return torch.add(self.base(x), update, alpha=self.scale)

    @torch.no_grad()
    def delta(self) -> Tensor:
        """(out, in) float32 update of the weight."""
        return self.scale * (self.up @ self.down)


class PublishedKronLinear(nn.Module):
    """A frozen linear layer plus what DiffuseKronA's published code computes; it is not trained.

    That code leaves the rows of A ⊗ B in another order: its output p·a1 + q is (A ⊗ B)x at
    q·b1 + p, so delta[p·a1 + q, i·b2 + j] = A[q, i]·B[p, j] is no Kronecker product in general.

    Args:
        base: (a1·b1, a2·b2) layer; it stays as it is.
        A: (a1, a2), saved as its transpose in "down".  B: (b1, b2), saved as "up".
    Source: IBM/DiffuseKronA, krona.py, its branch for three-dimensional input.
    """

    factor_names: ClassVar[tuple[str, str]] = ("A", "B")

    def __init__(self, base: nn.Linear, A: Tensor, B: Tensor) -> None:
        super().__init__()
        self.base = base
        device = base.weight.device
        self.A = nn.Parameter(A.to(device, torch.float32), requires_grad=False)
        self.B = nn.Parameter(B.to(device, torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        X = x.reshape(*x.shape[:-1], self.A.shape[1], self.B.shape[1])
        update = self.A.to(x.dtype) @ (X @ self.B.to(x.dtype).T)
        return torch.add(self.base(x), update.mT.flatten(-2))

    @torch.no_grad()
    def delta(self) -> Tensor:
        """(out, in) float32 update of the weight."""
        rows = torch.einsum("pj,qi->pqij", self.B, self.A)
        return rows.reshape(self.base.out_features, self.base.in_features)


Lora = LoraLinear | LoraConv
AdapterLayer = KronLinear | Lora | PublishedKronLinear


def _check_factors(
    factors: Any, targets: tuple[Projection, ...]
) -> Factors | dict[Projection, Factors]:
    if not isinstance(factors, Mapping):
        return _check_pair(factors)
    if set(factors) != set(targets):
        raise KronaError(
            f"factors are given for {', '.join(factors) or 'no projection'}, "
            f"but the targets are {', '.join(targets)}; give one pair for each target"
        )
    return {projection: _check_pair(factors[projection]) for projection in targets}


def _check_pair(pair: Any) -> Factors:
    if isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_is_count, pair)):
        return cast(Factors, tuple(pair))
    raise KronaError(f"factors {pair!r} are not two positive integers (a1, a2), such as (4, 64)")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
