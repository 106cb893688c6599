"""A frozen linear layer in; the layers out that are compared around it, each by its name.

PEFT and LyCORIS hold no oblong A by themselves: the given one is put in place of the one they made.
Where a package is not installed, its contenders are left out.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from krona.adapter.layers import KronLinear, LoraLinear

FROZEN, LORA, PEFT, REBUILD = "frozen", "LoRA 8", "PEFT LoKr", "LyCORIS rebuild"
BYPASS, PUBLISHED, OURS = "LyCORIS bypass", "published", "krona"
LORA_RANK = 8


class PublishedLayer(nn.Module):
    """DiffuseKronA's published algorithm, written anew from its description, to be trained.

    It multiplies by A first, whatever the factors, and its result has the rows of A ⊗ B in another
    order. `.reshape` stands for its `.view`, which refuses strided gradients in torch 2.15.
    """

    def __init__(self, base: nn.Linear, A: Tensor, B: Tensor) -> None:
        super().__init__()
        self.base, self.A, self.B = base, nn.Parameter(A), nn.Parameter(B)

    def forward(self, x: Tensor) -> Tensor:
        X = x.reshape(*x.shape[:-1], self.A.shape[1], self.B.shape[1])
        update: Tensor = self.B @ (X.mT @ self.A.T)
        return torch.add(self.base(x), update.flatten(-2))


def _ours(base: nn.Linear, A: Tensor, B: Tensor) -> nn.Module:
    return KronLinear.of(base, A, B)


def _lora(base: nn.Linear, A: Tensor, B: Tensor) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return LoraLinear(base, LORA_RANK, init="kaiming", scale=1.0, generator=generator)


def _published(base: nn.Linear, A: Tensor, B: Tensor) -> nn.Module:
    return PublishedLayer(base, A.to(base.weight.dtype), B.to(base.weight.dtype))


def _peft(base: nn.Linear, A: Tensor, B: Tensor) -> nn.Module:
    from peft import LoKrConfig
    from peft.tuners.lokr.layer import Linear as PeftLinear

    rank = max(base.in_features, base.out_features)
    config = LoKrConfig(r=rank, alpha=rank)
    layer: Any = PeftLinear(base, "bench", config=config, r=rank, alpha=rank)
    dtype = base.weight.dtype
    layer.lokr_w1["bench"] = nn.Parameter(A.to(dtype))
    layer.lokr_w2["bench"] = nn.Parameter(B.to(dtype))
    return layer  # type: ignore[no-any-return]


def _lycoris(base: nn.Linear, A: Tensor, B: Tensor, *, is_bypass: bool) -> nn.Module:
    from lycoris.modules.lokr import LokrModule

    layer: Any = LokrModule("bench", base, lora_dim=1, full_matrix=True, bypass_mode=is_bypass)
    dtype = base.weight.dtype
    layer.lokr_w1, layer.lokr_w2 = nn.Parameter(A.to(dtype)), nn.Parameter(B.to(dtype))
    return layer.to(base.weight.device)  # type: ignore[no-any-return]


def _rebuild(base: nn.Linear, A: Tensor, B: Tensor) -> nn.Module:
    return _lycoris(base, A, B, is_bypass=False)


def _bypass(base: nn.Linear, A: Tensor, B: Tensor) -> nn.Module:
    return _lycoris(base, A, B, is_bypass=True)


_PACKAGES = {PEFT: "peft", REBUILD: "lycoris", BYPASS: "lycoris"}
# Contender → the package that it needs and that is not there.
ABSENT = {name: package for name, package in _PACKAGES.items() if find_spec(package) is None}
_ALL: dict[str, Callable[[nn.Linear, Tensor, Tensor], nn.Module]] = {
    LORA: _lora,
    PEFT: _peft,
    REBUILD: _rebuild,
    BYPASS: _bypass,
    PUBLISHED: _published,
    OURS: _ours,
}
# A layer around base (out, in) from A (a1, a2) and B (b1, b2); LoRA takes nothing of them.
ADAPTERS = {name: make for name, make in _ALL.items() if name not in ABSENT}


def random_factors(
    base: nn.Linear, factors: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Float32 A and B that fit base, on its device; A ⊗ B is small and not zero."""
    (a1, a2), device = factors, base.weight.device
    A = torch.randn(a1, a2, generator=generator).to(device)
    B = 0.01 * torch.randn(base.out_features // a1, base.in_features // a2, generator=generator)
    return A, B.to(device)


def check_equal(adapted: Mapping[str, nn.Module], run: Callable[[nn.Module], Tensor]) -> None:
    """Assert that all that multiply by A ⊗ B compute the same when run, up to rounding."""
    for name, error in relative_errors(adapted, run).items():
        assert error < 0.02, f"{name} computes something else: relative error {error:.2g}"


@torch.no_grad()
def relative_errors(
    adapted: Mapping[str, nn.Module], run: Callable[[nn.Module], Tensor]
) -> dict[str, float]:
    """How far what others that multiply by A ⊗ B compute is from krona's, when run."""
    expected = run(adapted[OURS]).float()
    others = [name for name in _PACKAGES if name in adapted]
    return {
        name: ((run(adapted[name]).float() - expected).norm() / expected.norm()).item()
        for name in others
    }
