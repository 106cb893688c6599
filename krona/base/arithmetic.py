"""A device in; how it computes out: each choice of speed, memory or exactness, and its reason.

| choice | on CUDA | on a CPU |
|---|---|---|
| weights of the base | bf16 where it is native, else fp32 | the same |
| fp16 | where asked for: its range needs the loss scaled | the same |
| TF32 | unless the base is in fp32 | has none |
| cudnn.benchmark | off | has none |
| memory format of the UNet | channels last | channels last |
| attention | fused, torch picks the kernel | plain where latents are small |
| what a step draws | one copy from pinned memory, not waited for | stays |

TF32: an fp32 base is asked for to have exact products. Over a half-precision one, what is left in
fp32 is the autoencoder and the scorers: they need fp32's range, and TF32's 10 bits are more than
bf16's 7. cudnn.benchmark chooses convolutions by timing, so that equal runs would differ by
rounding, and times them anew for each size of a pack. Channels last is how convolutions compute.
Fused attention needs memory linear in the tokens, which the memory plan counts on; on a CPU its
backward in bf16 is slow (torch 2.15: a step takes 1.2 times as long).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_PLAIN_ATTENTION_SIDE = 32  # plain attention needs memory for tokens x tokens


def native_precision(device: str | torch.device) -> Precision:
    """bf16 where the device multiplies it natively, else fp32."""
    if torch.device(device).type == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_native = torch.cpu._is_avx512_bf16_supported()
    return "bf16" if is_native else "fp32"


def set_switches(device: torch.device, dtype: torch.dtype) -> None:
    """Set torch's switches for CUDA, which hold for the process, for a base in `dtype`.

    They are the old ones for TF32: torch.compile reads them, and fails where the new ones were set
    (torch 2.15).
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = dtype != torch.float32
    torch.backends.cudnn.allow_tf32 = dtype != torch.float32
    torch.backends.cudnn.benchmark = False


def place_unet(unet: Any, device: torch.device) -> None:
    """Move a UNet to its device, in the memory format and with the attention that suit it."""
    unet.to(device, memory_format=torch.channels_last)
    is_plain = device.type == "cpu" and unet.config.sample_size <= _PLAIN_ATTENTION_SIDE
    unet.set_attn_processor(AttnProcessor() if is_plain else AttnProcessor2_0())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Arithmetic in bf16 or fp16, "no" is the weights' own.

    Without accelerate's Accelerator, whose state is one for the whole process.
    """
    dtype = DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """What keeps small gradients within fp16's range; it does nothing in another precision."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the CPU on a device, by one copy that the host does not wait for.

    Integers travel as floating-point numbers, which hold them exactly up to 2^24 and more.
    """
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    if device.type == "cuda":
        flat = flat.pin_memory()
    parts = torch.split(flat.to(device, non_blocking=True), [tensor.numel() for tensor in tensors])
    return [part.view_as(t).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]
