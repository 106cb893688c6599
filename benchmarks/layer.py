"""L1 and L1b: forward and backward of one adapted linear layer over the frozen layer alone.

Goal: fp32 (64,8) ≤ 1.22 at T 4096, d 640 and ≤ 1.08 at T 1024, d 1280, half of PEFT LoKr's or less;
bf16 ≤ 1.45 and ≤ 1.25, at most 0.55 of PEFT's. Least possible: the multiplies of the update,
3(a2 + d/a1)/2d of the frozen layer's (0.01–0.05 here), as the frozen weight needs no gradient.

All contenders run interleaved in every round, so a busy machine slows them alike; a cell is the
median over rounds of its time over the frozen layer's. Run: make bench
"""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from lycoris.modules.lokr import LokrModule
from peft import LoKrConfig
from peft.tuners.lokr.layer import Linear as PeftLinear
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from krona.adapter import KronLinear, LoraLinear

RESULTS = Path(__file__).parent / "results"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FROZEN, PEFT, OURS = "frozen", "PEFT LoKr", "krona"
Contender = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer of T rows, d inputs and outputs, and its goals, where the page sets them."""

    dtype: str
    num_rows: int
    width: int
    factors: tuple[int, int]
    goal: float | None = None
    peft_goal: float | None = None

    @property
    def name(self) -> str:
        return f"{self.dtype} {self.num_rows}, {self.width} {self.factors}"


CASES = (
    Case(dtype="fp32", num_rows=4096, width=320, factors=(64, 8)),
    Case(dtype="fp32", num_rows=4096, width=640, factors=(64, 8), goal=1.22, peft_goal=0.5),
    Case(dtype="fp32", num_rows=1024, width=1280, factors=(64, 8), goal=1.08, peft_goal=0.5),
    Case(dtype="fp32", num_rows=1024, width=1280, factors=(16, 16)),
    Case(dtype="fp32", num_rows=1024, width=1280, factors=(2, 64)),
    Case(dtype="bf16", num_rows=4096, width=320, factors=(64, 8)),
    Case(dtype="bf16", num_rows=4096, width=640, factors=(64, 8), goal=1.45, peft_goal=0.55),
    Case(dtype="bf16", num_rows=1024, width=1280, factors=(64, 8), goal=1.25, peft_goal=0.55),
    Case(dtype="bf16", num_rows=4096, width=640, factors=(2, 64)),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time one adapted layer against the frozen one and other adapters."""

    rounds: int = 15
    """Interleaved rounds in a case; the first two are dropped."""
    threads: int = 1
    """CPU threads of torch."""
    device: str = "cpu"
    """Where to run: cpu or cuda."""


def contenders(case: Case, device: str) -> dict[str, Contender]:
    """The frozen layer, and adapters around it: LoRA of rank 8, the rest with the same A and B.

    PEFT and LyCORIS hold no oblong A by themselves: theirs is put in place of the one they made.
    """
    torch.manual_seed(0)
    dtype = DTYPES[case.dtype]
    base = nn.Linear(case.width, case.width, device=device, dtype=dtype).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    ours = KronLinear(base, case.factors, init="kaiming", scale=1.0, generator=generator)
    nn.init.normal_(ours.B, std=0.01)
    factors = [factor.detach().to(dtype) for factor in (ours.A, ours.B)]
    return {
        FROZEN: base,
        "LoRA 8": LoraLinear(base, 8, init="kaiming", scale=1.0, generator=generator),
        PEFT: _peft(base, factors),
        "LyCORIS rebuild": _lycoris(base, factors, is_bypass=False),
        "LyCORIS bypass": _lycoris(base, factors, is_bypass=True),
        OURS: ours,
    }


def _peft(base: nn.Linear, factors: list[Tensor]) -> Contender:
    rank = base.in_features
    config = LoKrConfig(r=rank, alpha=rank)
    layer: Any = PeftLinear(base, "bench", config=config, r=rank, alpha=rank)
    layer.lokr_w1["bench"], layer.lokr_w2["bench"] = map(nn.Parameter, factors)
    return layer  # type: ignore[no-any-return]


def _lycoris(base: nn.Linear, factors: list[Tensor], *, is_bypass: bool) -> Contender:
    layer: Any = LokrModule("bench", base, lora_dim=1, full_matrix=True, bypass_mode=is_bypass)
    layer.lokr_w1, layer.lokr_w2 = map(nn.Parameter, factors)
    return layer.to(base.weight.device)  # type: ignore[no-any-return]


def check_equal(layers: dict[str, Contender], x: Tensor) -> None:
    """Assert that all Kronecker layers compute the same, up to rounding."""
    expected = layers[OURS](x)
    for name in (PEFT, "LyCORIS rebuild", "LyCORIS bypass"):
        error = (layers[name](x) - expected).norm() / expected.norm()
        assert error < 0.02, f"{name} computes something else: relative error {error:.2g}"


def time_once(layer: Contender, x: Tensor, grad: Tensor) -> float:
    """Seconds of one forward and backward: the processor's on the CPU, which neighbours share."""
    clock = time.perf_counter if x.is_cuda else time.process_time
    x.grad = None
    _synchronize(x)
    start = clock()
    layer(x).backward(grad)  # type: ignore[no-untyped-call]
    _synchronize(x)
    return clock() - start


def _synchronize(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def measure(case: Case, config: Config) -> dict[str, float]:
    """Median of each contender's time over the frozen layer's; "frozen" is its time in ms."""
    layers = contenders(case, config.device)
    generator = torch.Generator().manual_seed(1)
    shape = 1, case.num_rows, case.width
    x, grad = (
        torch.randn(shape, generator=generator).to(config.device, DTYPES[case.dtype])
        for _ in range(2)
    )
    x.requires_grad_()
    check_equal(layers, x)
    rounds = [
        {name: time_once(layer, x, grad) for name, layer in layers.items()}
        for _ in range(config.rounds + 2)
    ][2:]
    ratios = {name: median(r[name] / r[FROZEN] for r in rounds) for name in layers}
    return ratios | {FROZEN: 1e3 * median(r[FROZEN] for r in rounds)}


def table(results: dict[Case, dict[str, float]]) -> Table:
    """The ratios, with the goal beside ours."""
    names = list(next(iter(results.values())))[1:]
    columns = ["T, d (a1, a2)", "frozen ms", *names, "goal", "of PEFT", "goal"]
    view = Table(*columns, title="forward + backward over the frozen layer's")
    for case, ratios in results.items():
        goals = (case.goal, case.peft_goal)
        goal, peft_goal = ("" if value is None else f"≤ {value}" for value in goals)
        cells = [f"{ratios[name]:.2f}" for name in (FROZEN, *names)]
        of_peft = f"{ratios[OURS] / ratios[PEFT]:.2f}"
        view.add_row(case.name, *cells, goal, of_peft, peft_goal)
    return view


def save(results: dict[Case, dict[str, float]], config: Config) -> Path:
    """Write the results with what they were measured on; the file's name is the date."""
    now = datetime.now(UTC)
    record = {
        "date": now.isoformat(timespec="seconds"),
        "hardware": _hardware(config.device),
        "versions": {name: version(name) for name in ("torch", "peft", "lycoris_lora")},
        "config": asdict(config),
        "results": [asdict(case) | {"ratios": ratios} for case, ratios in results.items()],
    }
    path = RESULTS / f"layer-{config.device}-{now:%Y-%m-%d}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def _hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    torch.set_num_threads(config.threads)
    console = Console(width=140)
    results = {}
    for case in CASES:
        with console.status(case.name):
            results[case] = measure(case, config)
    console.print(table(results))
    console.print(f"written to {save(results, config)}")


if __name__ == "__main__":
    main()
