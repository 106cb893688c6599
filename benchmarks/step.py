"""U1 and U2: one training step of an SDXL-shaped UNet with an adapter around every Q, K, V and O.

U1, over the same step of the frozen UNet: ≤ 1.10 in time and ≤ 1.07 in memory; in time at most
0.75 of PEFT LoKr's and 0.65 of the published layer's. Least possible: 1 in time; 1.08 in memory,
as an adapter keeps the inputs of its linears, which the frozen UNet need not. U2: the published
layer with gradient checkpointing takes ≥ 2 × as long as krona without; its forwards run twice.

A step is forward, loss and backward, as in training: latents and text need no gradient, so the
backward ends at the first attention's Q, K and V. The frozen UNet has nothing to train; the outputs
of those three linears need a gradient there, and its backward takes the same way.

All contenders run in every round, so a busy machine slows them alike. Run: make bench
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from contenders import ADAPTERS, FROZEN, OURS, PEFT, PUBLISHED, check_equal, random_factors
from diffusers import UNet2DConditionModel
from record import goal, interleave, prepare, ratios, save, time_once
from rich.console import Console
from rich.table import Table
from torch import Tensor

from krona.adapter.inject import attention_linears
from krona.base.single_file import ORIGINALS
from krona.diffusion.objective import added_conditions
from krona.planning.trace import StepCost, trace_step

CHECKPOINTED = f"{PUBLISHED}, checkpointed"
SDXL = ORIGINALS / "sdxl" / "unet"
# A fifth of SDXL's widths, heads of 64 as there; a side at which an attention has as many rows for
# its width as SDXL's have at 1024 px: 784 for 128 and 196 for 256.
NARROW = {
    "block_out_channels": (64, 128, 256),
    "attention_head_dim": (1, 2, 4),
    "cross_attention_dim": 384,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 6 * 32 + 256,
}
SIDE, TEXT_LENGTH, POOLED_WIDTH = 56, 77, 256
FACTORS = (64, 8)  # divide the outputs, 128 and 256, and the inputs, these and the text's 384


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time one training step of an adapted UNet against the frozen one and other adapters."""

    rounds: int = 5
    """Interleaved rounds."""
    threads: int = 1
    """CPU threads of torch."""
    device: str = "cpu"
    """Where to run: cpu or cuda."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the contenders' steps gave.

    Attributes:
        frozen_s: median of the frozen UNet's step.
        ratios: time over the frozen UNet's, by contender.
        peak, saved: most bytes of activations and gradients alive at once, and bytes that the
            forward keeps for the backward, over the frozen UNet's, by contender; weights aside.
        of_peft, of_published: krona's time over theirs.
        speedup: the published recipe's time over krona's.
    """

    frozen_s: float
    ratios: dict[str, float]
    peak: dict[str, float]
    saved: dict[str, float]
    of_peft: float
    of_published: float
    speedup: float


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The arguments of the UNet for one image, and the noise that it is to predict."""

    arguments: dict[str, Any]
    noise: Tensor

    def loss(self, unet: Any) -> Tensor:
        return F.mse_loss(unet(**self.arguments)[0], self.noise)


def make_batch(unet: Any, device: str) -> Batch:
    """Random latents, noise and text for the UNet."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    arguments = {
        "sample": draw(1, unet.config.in_channels, SIDE, SIDE),
        "timestep": torch.full((1,), 500, device=device),
        "encoder_hidden_states": draw(1, TEXT_LENGTH, unet.config.cross_attention_dim),
        "added_cond_kwargs": added_conditions(draw(1, POOLED_WIDTH), 8 * SIDE),
        "return_dict": False,
    }
    return Batch(arguments=arguments, noise=draw(1, unet.config.out_channels, SIDE, SIDE))


def make_unet(device: str) -> Any:
    """SDXL's UNet with narrow layers and random weights, frozen."""
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(SDXL) | NARROW
    return UNet2DConditionModel.from_config(config).to(device).requires_grad_(False).eval()


def make_contenders(unet: Any) -> dict[str, Any]:
    """The UNet and its adapted copies of the same weights, all but LoRA with the same A and B."""
    generator = torch.Generator().manual_seed(0)
    linears = attention_linears(unet)
    factors = {path: random_factors(linears[path], FACTORS, generator) for path in linears}
    unets = {FROZEN: unet}
    for name, make in (ADAPTERS | {CHECKPOINTED: ADAPTERS[PUBLISHED]}).items():
        unets[name] = deepcopy(unet, {id(weight): weight for weight in unet.parameters()})
        for path, linear in attention_linears(unets[name]).items():
            unets[name].set_submodule(path, make(linear, *factors[path]), strict=True)
    unets[CHECKPOINTED].enable_gradient_checkpointing()
    _begin_gradient(unet)
    return unets


def _begin_gradient(unet: Any) -> None:
    """Have a frozen UNet's gradient begin where that of adapters would."""
    first = next(iter(attention_linears(unet))).rpartition(".")[0]
    for name in ("to_q", "to_k", "to_v"):
        linear = unet.get_submodule(f"{first}.{name}")
        linear.register_forward_hook(lambda module, inputs, output: output.requires_grad_())


def run_once(unet: Any, batch: Batch, device: str) -> float:
    """Seconds of one step."""
    unet.zero_grad()
    return time_once(lambda: batch.loss(unet).backward(), device)  # type: ignore[no-untyped-call]


def measure(config: Config) -> Result:
    """Run all contenders."""
    unet = make_unet(config.device)
    unets, batch = make_contenders(unet), make_batch(unet, config.device)
    with torch.no_grad():
        check_equal(unets, lambda unet: unet(**batch.arguments)[0])
    costs = {name: _cost(adapted, unet, batch) for name, adapted in unets.items()}
    runs: dict[str, Callable[[], float]] = {
        name: partial(run_once, adapted, batch, config.device) for name, adapted in unets.items()
    }
    times = interleave(runs, config.rounds)
    frozen = costs[FROZEN]
    return Result(
        frozen_s=median(times[FROZEN]),
        ratios=ratios(times, FROZEN),
        peak={name: cost.peak_bytes / frozen.peak_bytes for name, cost in costs.items()},
        saved={name: cost.saved_bytes / frozen.saved_bytes for name, cost in costs.items()},
        of_peft=ratios(times, PEFT)[OURS],
        of_published=ratios(times, PUBLISHED)[OURS],
        speedup=ratios(times, OURS)[CHECKPOINTED],
    )


def _cost(adapted: Any, unet: Any, batch: Batch) -> StepCost:
    """The bytes of one step; some adapters do not list the weights that they took from the UNet."""
    adapted.zero_grad()
    return trace_step(lambda: batch.loss(adapted), [adapted, unet])


def step_table(result: Result) -> Table:
    """U1's time and memory, with the goals beside krona's."""
    columns = ["adapter", "time", "goal", "peak bytes", "goal", "saved bytes"]
    title = f"U1: one training step over the frozen UNet's, {result.frozen_s:.2f} s"
    table = Table(*columns, title=title)
    for name in (*ADAPTERS, CHECKPOINTED):
        time, peak = result.ratios[name], result.peak[name]
        table.add_row(
            name,
            f"{time:.2f}",
            goal(time, 1.10 if name == OURS else None),
            f"{peak:.2f}",
            goal(peak, 1.07 if name == OURS else None),
            f"{result.saved[name]:.2f}",
        )
    return table


def speed_table(result: Result) -> Table:
    """U1's and U2's ratios of krona's time and others', with the goals."""
    table = Table("", "ratio", "goal", title="U1, U2: one adapter's time over another's")
    table.add_row(f"{OURS} / {PEFT}", f"{result.of_peft:.2f}", goal(result.of_peft, 0.75))
    of_published = result.of_published
    table.add_row(f"{OURS} / {PUBLISHED}", f"{of_published:.2f}", goal(of_published, 0.65))
    speedup = result.speedup
    table.add_row(f"{CHECKPOINTED} / {OURS}", f"{speedup:.2f}", goal(speedup, 2, is_least=True))
    return table


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    prepare(config.threads)
    console = Console(width=150)
    with console.status("one step of each adapter in every round"):
        result = measure(config)
    console.print(step_table(result), speed_table(result))
    console.print(f"written to {save('step', config, config.device, asdict(result))}")


if __name__ == "__main__":
    main()
