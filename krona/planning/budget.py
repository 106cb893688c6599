"""A base's name, a run's plan and a memory budget in; out, what to save memory with to fit."""

import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from krona.adapter.layers import Factors
from krona.base.arithmetic import DTYPES, Precision
from krona.base.checkpoint import NOTHING_SAVED, Savings
from krona.base.skeleton import build_skeleton
from krona.base.source import BaseSource
from krona.diffusion.sample import images_at_once
from krona.planning.dry_step import dry_sample
from krona.planning.plan import PlanConfig, make_plan, num_bytes

GIB = 1 << 30
# The allocator's gaps and the pictures of an evaluation need some memory besides the plan's.
_USABLE_FRAC = 0.9


def device_budget(device: str | torch.device, gpu_frac: float = 1.0) -> int | None:
    """Bytes that this process may use of a share of a GPU; None for a CPU, which has no limit."""
    if torch.device(device).type != "cuda":
        return None
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    own_bytes = torch.cuda.memory_reserved(device)
    return usable_bytes(free_bytes + own_bytes, total_bytes, gpu_frac)


def usable_bytes(free_bytes: int, total_bytes: int, gpu_frac: float) -> int:
    """Most of a share of a GPU, or of what other processes leave of it if that is less.

    Warns: if they leave so little.
    """
    share_bytes = int(gpu_frac * total_bytes)
    if free_bytes < _USABLE_FRAC * share_bytes:
        warnings.warn(
            f"of the GPU's {total_bytes / GIB:.1f} GiB only {free_bytes / GIB:.1f} are free, fewer "
            f"than the {share_bytes / GIB:.1f} that are this process's; other programs hold the "
            "rest (nvidia-smi lists them)",
            stacklevel=2,
        )
    return int(_USABLE_FRAC * min(share_bytes, free_bytes))


def fit_budget(base: str | BaseSource, config: PlanConfig, budget_bytes: int | None) -> Savings:
    """The least to give up for a training step to fit; a warning says if nothing suffices.

    Offloading goes first: it costs copies at evaluations, checkpointing a forward in every step.

    Args:
        base: as make_plan() takes it.
        config: of the run; what it says of encoders and checkpointing is not read.
        budget_bytes: on the device, None for no limit.
    """
    if budget_bytes is None:
        return NOTHING_SAVED
    savings, spare_bytes = _least_savings(base, config, budget_bytes)
    if spare_bytes < 0:
        _warn_of_memory(base, budget_bytes, spare_bytes)
    return savings


def fit_factors(
    base: str | BaseSource,
    config: PlanConfig,
    budget_bytes: int | None,
    sizes: Mapping[Factors, int],
) -> tuple[Savings, tuple[Factors, ...]]:
    """What to give up for the largest adapter that can fit, and the factors of all that then do.

    Args:
        base, config, budget_bytes: of fit_budget(); the config's factors are not read.
        sizes: factors to choose from → parameters.
    Warns: if some, or all, do not fit; all stay where none does.
    """
    if budget_bytes is None:
        return NOTHING_SAVED, tuple(sizes)
    largest = max(sizes, key=lambda pair: sizes[pair])
    adapter = replace(config.adapter, factors=largest)
    savings, spare_bytes = _least_savings(base, replace(config, adapter=adapter), budget_bytes)
    fitting = tuple(
        pair
        for pair, num_params in sizes.items()
        if spare_bytes + config.bytes_per_param * (sizes[largest] - num_params) >= 0
    )
    if not fitting:
        _warn_of_memory(base, budget_bytes, spare_bytes)
        return savings, tuple(sizes)
    if len(fitting) < len(sizes):
        most = max(sizes[pair] for pair in fitting)
        warnings.warn(
            f"{len(sizes) - len(fitting)} of {len(sizes)} factor pairs are not searched: with more "
            f"than {most:,} parameters an adapter does not fit into {budget_bytes / GIB:.2f} GiB",
            stacklevel=2,
        )
    return savings, fitting


def fit_sampling(
    base: str | BaseSource,
    budget_bytes: int | None,
    *,
    precision: Precision,
    resolution: int | None = None,
    batch_size: int | None = None,
    is_guided: bool = True,
) -> tuple[Savings, int | None]:
    """The least to give up for sampling to fit, and how many images at once then do.

    Offloading goes first, as it costs next to nothing here. A warning says if not even one fits.

    Args:
        base, budget_bytes: of fit_budget().
        resolution: side of the images in pixels; the base's native one if not given.
        batch_size: images at once, at most; by their size if not given.
        is_guided: the UNet sees every image twice.
    """
    if budget_bytes is None:
        return NOTHING_SAVED, batch_size
    with FakeTensorMode():
        skeleton = build_skeleton(base, DTYPES[precision])
        resolution = resolution or skeleton.resolution
        row_bytes, decode_bytes = dry_sample(skeleton, resolution=resolution)
    unet, vae = num_bytes(skeleton.unet), num_bytes(skeleton.vae)
    text = sum(map(num_bytes, skeleton.text_encoders))
    asked = batch_size or images_at_once(resolution)
    image_bytes = row_bytes * (2 if is_guided else 1)
    for savings, resident, others in (
        (NOTHING_SAVED, unet + vae + text, decode_bytes),
        (Savings(offloads_vae=True, offloads_text=True), unet, max(text, vae + decode_bytes)),
    ):
        num = min(asked, (budget_bytes - resident) // image_bytes)
        if num == asked and resident + others <= budget_bytes:
            return savings, num
    if num < 1 or resident + others > budget_bytes:
        needed_bytes = resident + max(image_bytes, others)
        warnings.warn(
            f"sampling one image from '{base}' needs {needed_bytes / GIB:.2f} GiB, encoders "
            f"offloaded, but {budget_bytes / GIB:.2f} GiB are allowed; lower the resolution",
            stacklevel=2,
        )
    return savings, max(1, num)


def _least_savings(
    base: str | BaseSource, config: PlanConfig, budget_bytes: int
) -> tuple[Savings, int]:
    """The least to give up, and the bytes that are then left; below 0 where nothing suffices."""
    offloaded = Savings(offloads_vae=True, offloads_text=not config.adapter.adapts_text)
    for savings in (NOTHING_SAVED, offloaded, replace(offloaded, has_checkpointing=True)):
        saving = replace(
            config,
            keeps_encoders=not savings.offloads_vae,
            has_checkpointing=savings.has_checkpointing,
        )
        spare_bytes = budget_bytes - make_plan(base, saving).memory.total
        if spare_bytes >= 0:
            break
    return savings, spare_bytes


def _warn_of_memory(base: str | BaseSource, budget_bytes: int, spare_bytes: int) -> None:
    warnings.warn(
        f"a training step on '{base}' needs {(budget_bytes - spare_bytes) / GIB:.2f} GiB, encoders "
        f"offloaded and blocks recomputed, but {budget_bytes / GIB:.2f} GiB are allowed, so it may "
        "run out of memory; lower the batch size or the resolution",
        stacklevel=3,
    )
