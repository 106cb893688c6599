"""A UNet in; out, the time and memory of a training step with each adapter in it."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from contenders import ADAPTERS, FROZEN, LORA, OURS, PEFT, PUBLISHED, check_equal, random_factors
from diffusers import UNet2DConditionModel
from record import interleave, ratios, time_once
from torch import Tensor

from krona.adapter.inject import attention_linears
from krona.base.original_config import ORIGINALS
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
class Result:
    """What the contenders' steps gave.

    Attributes:
        frozen_s: median of the frozen UNet's step.
        ratios: time over the frozen UNet's, by contender.
        peak, saved: most bytes of activations and gradients alive at once, and bytes that the
            forward keeps for the backward, over the frozen UNet's, by contender; weights aside.
        of_lora, of_peft, of_published: krona's time over theirs; None without PEFT.
        speedup: the published recipe's time over krona's.
    """

    frozen_s: float
    ratios: dict[str, float]
    peak: dict[str, float]
    saved: dict[str, float]
    of_lora: float
    of_peft: float | None
    of_published: float
    speedup: float


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The arguments of the UNet for one image, and the noise that it is to predict."""

    arguments: dict[str, Any]
    noise: Tensor

    def loss(self, unet: Any) -> Tensor:
        return F.mse_loss(unet(**self.arguments)[0], self.noise)


def make_batch(
    unet: Any, device: str, *, side: int = SIDE, pooled_width: int = POOLED_WIDTH
) -> Batch:
    """Random latents of `side`, noise and text for the UNet, in its precision."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, unet.dtype)

    arguments = {
        "sample": draw(1, unet.config.in_channels, side, side),
        "timestep": torch.full((1,), 500, device=device),
        "encoder_hidden_states": draw(1, TEXT_LENGTH, unet.config.cross_attention_dim),
        "return_dict": False,
    }
    if unet.config.addition_embed_type == "text_time":
        arguments["added_cond_kwargs"] = added_conditions(draw(1, pooled_width), 8 * side)
    return Batch(arguments=arguments, noise=draw(1, unet.config.out_channels, side, side))


def make_unet(device: str) -> Any:
    """SDXL's UNet with narrow layers and random weights, frozen."""
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(SDXL) | NARROW
    return UNet2DConditionModel.from_config(config).to(device).requires_grad_(False).eval()


def draw_factors(unet: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B for each linear that is adapted, by its path."""
    generator = torch.Generator().manual_seed(0)
    linears = attention_linears(unet)
    return {path: random_factors(linears[path], FACTORS, generator) for path in linears}


def adapt(unet: Any, name: str, factors: Mapping[str, tuple[Tensor, Tensor]]) -> Any:
    """A contender: a copy of the UNet with the same weights, and with its adapter in it.

    The frozen one has nothing to train, and a gradient that begins where that of adapters would.
    """
    copied = deepcopy(unet, {id(weight): weight for weight in unet.parameters()})
    if name == FROZEN:
        _begin_gradient(copied)
        return copied
    make = ADAPTERS[PUBLISHED if name == CHECKPOINTED else name]
    for path, linear in attention_linears(copied).items():
        copied.set_submodule(path, make(linear, *factors[path]), strict=True)
    if name == CHECKPOINTED:
        copied.enable_gradient_checkpointing()
    return copied


def _begin_gradient(unet: Any) -> None:
    first = next(iter(attention_linears(unet))).rpartition(".")[0]
    for name in ("to_q", "to_k", "to_v"):
        linear = unet.get_submodule(f"{first}.{name}")
        linear.register_forward_hook(lambda module, inputs, output: output.requires_grad_())


def run_once(unet: Any, batch: Batch, device: str) -> float:
    """Seconds of one step."""
    unet.zero_grad()
    return time_once(lambda: batch.loss(unet).backward(), device)  # type: ignore[no-untyped-call]


def measure(*, rounds: int, device: str) -> Result:
    """Run all contenders."""
    unet = make_unet(device)
    factors, batch = draw_factors(unet), make_batch(unet, device)
    unets = {name: adapt(unet, name, factors) for name in (FROZEN, *ADAPTERS, CHECKPOINTED)}
    check_equal(unets, lambda unet: unet(**batch.arguments)[0])
    costs = {name: _cost(adapted, unet, batch) for name, adapted in unets.items()}
    runs: dict[str, Callable[[], float]] = {
        name: partial(run_once, adapted, batch, device) for name, adapted in unets.items()
    }
    times = interleave(runs, rounds)
    frozen = costs[FROZEN]
    return Result(
        frozen_s=median(times[FROZEN]),
        ratios=ratios(times, FROZEN),
        peak={name: cost.peak_bytes / frozen.peak_bytes for name, cost in costs.items()},
        saved={name: cost.saved_bytes / frozen.saved_bytes for name, cost in costs.items()},
        of_lora=ratios(times, LORA)[OURS],
        of_peft=ratios(times, PEFT)[OURS] if PEFT in times else None,
        of_published=ratios(times, PUBLISHED)[OURS],
        speedup=ratios(times, OURS)[CHECKPOINTED],
    )


def _cost(adapted: Any, unet: Any, batch: Batch) -> StepCost:
    """The bytes of one step; some adapters do not list the weights that they took from the UNet."""
    adapted.zero_grad()
    return trace_step(lambda: batch.loss(adapted), [adapted, unet])
