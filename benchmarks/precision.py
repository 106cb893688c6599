"""N1: how much of a small adapter arrives over a bfloat16 base.

|Δ|/|W| is 2e-4, as early in training. Goal: a relative error of the applied Δ of at most 5e-3 for
the factored form. Least possible: 2⁻⁹/√3 ≈ 1.1e-3, the rounding of Δ's own values to bfloat16.

A form that adds Δ to the weight applies what is left of it after the sum was rounded. The factored
one never forms that sum; what it applies is its output on unit vectors over a base of zeros.
"""

from dataclasses import dataclass

import torch
import tyro
from contenders import ADAPTERS, REBUILD, random_factors
from record import goal, save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from krona.adapter.kron import kron_linear

GOAL = 5e-3
FACTORED, MERGED = "krona, factored", "merged into bf16"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the error of the applied Δ over a bfloat16 base."""

    width: int = 640
    """Inputs and outputs of the layer."""
    factors: tuple[int, int] = (64, 8)
    """(a1, a2)."""
    share: float = 2e-4
    """|Δ|/|W|, Frobenius norms."""
    device: str = "cpu"
    """Where to run: cpu or cuda."""


@torch.no_grad()
def measure(config: Config) -> dict[str, float]:
    """The relative error of the applied Δ, by form."""
    torch.manual_seed(0)
    base = nn.Linear(config.width, config.width, bias=False, device=config.device)
    base = base.to(torch.bfloat16)
    A, B = random_factors(base, config.factors, torch.Generator().manual_seed(0))
    B *= config.share * base.weight.float().norm() / torch.kron(A, B).norm()
    weight, delta = base.weight, torch.kron(A, B)
    units = torch.eye(config.width, dtype=weight.dtype, device=weight.device)
    rebuilt = ADAPTERS[REBUILD](base, A, B)(units).T.float() - weight.float()
    merged = (weight.float() + delta).to(weight.dtype).float() - weight.float()
    factored = kron_linear(units, torch.zeros_like(weight), None, A, B).T
    applied = {FACTORED: factored, REBUILD: rebuilt, MERGED: merged}
    return {name: _relative_error(got, delta) for name, got in applied.items()}


def _relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got.float() - expected).norm() / expected.norm()).item()


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    errors, console = measure(config), Console(width=100)
    table = Table("form", "error", "goal", title="N1: relative error of the applied Δ, bf16 base")
    for name, error in errors.items():
        table.add_row(name, f"{error:.2g}", goal(error, GOAL if name == FACTORED else None))
    console.print(table, f"written to {save('precision', config, config.device, errors)}")


if __name__ == "__main__":
    main()
