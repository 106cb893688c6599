"""A base without weights and an adapter in it in; out, what one training step on it costs.

As krona.train does it: the UNet predicts for noisy latents and cached prompt embeddings. Where the
text encoders are adapted, they run in the step too. Sampling has its own. Attention is the fused
kind, in linear memory.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from krona.base.skeleton import Skeleton
from krona.diffusion.encode import text_features
from krona.diffusion.objective import added_conditions
from krona.planning.trace import StepCost, trace_forward, trace_step

_FLOAT32_ON_CUDA = (F.group_norm, F.layer_norm)


def dry_step(
    base: Skeleton,
    *,
    resolution: int,
    batch_size: int,
    autocast: torch.dtype | None = None,
    adapts_text: bool = False,
    has_checkpointing: bool = False,
) -> StepCost:
    """Trace one forward and backward pass, with the adapters that are in the base.

    Args:
        resolution: side of the images in pixels.
        autocast: arithmetic, where it is not the weights' precision.
        adapts_text: the text encoders hold adapters, so they run and get gradients.
        has_checkpointing: the UNet's blocks are recomputed in the backward.
    """
    if has_checkpointing:
        base.unet.enable_gradient_checkpointing()

    def forward() -> Tensor:
        with _arithmetic(autocast):
            text = (_run_text if adapts_text else _cached_text)(base, batch_size)
            return _predict(base, text, resolution)

    return trace_step(forward, [base.unet, *base.text_encoders])


def dry_sample(base: Skeleton, *, resolution: int) -> tuple[int, int]:
    """Most bytes alive while one image is sampled: per row of the UNet's batch, and in decoding."""
    text = _cached_text(base, 1)
    side = base.latent_side(resolution)
    latents = torch.zeros(1, base.vae.config.latent_channels, side, side)
    return (
        trace_forward(lambda: _predict(base, text, resolution), [base.unet]),
        trace_forward(lambda: base.vae.decode(latents), [base.vae]),
    )


def _predict(base: Skeleton, text: dict[str, Tensor], resolution: int) -> Tensor:
    """The UNet's prediction for latents of images of `resolution` px, one for each prompt."""
    pooled, batch_size = text.get("pooled"), len(text["embeds"])
    side = base.latent_side(resolution)
    prediction: Tensor = base.unet(
        torch.zeros(batch_size, base.unet.config.in_channels, side, side, dtype=_dtype(base)),
        torch.zeros(batch_size, dtype=torch.long),
        text["embeds"],
        added_cond_kwargs=None if pooled is None else added_conditions(pooled, resolution),
        return_dict=False,
    )[0]
    return prediction


def _cached_text(base: Skeleton, batch_size: int) -> dict[str, Tensor]:
    """Prompt embeddings as the cache gives them: they need no gradient."""
    length = base.text_encoders[0].config.max_position_embeddings
    shape = batch_size, length, base.unet.config.cross_attention_dim
    text = {"embeds": torch.zeros(shape, dtype=_dtype(base))}
    if base.family == "sdxl":
        width = base.text_encoders[-1].config.projection_dim
        text["pooled"] = torch.zeros(batch_size, width, dtype=_dtype(base))
    return text


def _run_text(base: Skeleton, batch_size: int) -> dict[str, Tensor]:
    """Prompt embeddings computed in the step."""
    outputs = []
    for text_encoder in base.text_encoders:
        shape = batch_size, text_encoder.config.max_position_embeddings
        tokens = torch.zeros(shape, dtype=torch.long)
        outputs.append(text_encoder(tokens, output_hidden_states=True))
    return text_features(outputs, base.family)


def _dtype(base: Skeleton) -> torch.dtype:
    dtype: torch.dtype = base.unet.dtype
    return dtype


def _arithmetic(autocast: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast as on a GPU, although fake tensors say that they are on the CPU."""
    if autocast is None:
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(torch.autocast("cpu", autocast))
    stack.enter_context(_Float32Norms())
    return stack


class _Float32Norms(TorchFunctionMode):
    """Norms in float32: CUDA's autocast does so, the CPU's does not.

    Source: "CUDA Ops that can autocast to float32" of torch.amp's documentation.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _FLOAT32_ON_CUDA:
            return func(*args, **(kwargs or {}))
        widened = [a.float() if isinstance(a, Tensor) else a for a in args]
        named = {k: v.float() if isinstance(v, Tensor) else v for k, v in (kwargs or {}).items()}
        with torch.autocast("cpu", enabled=False):
            return func(*widened, **named)
