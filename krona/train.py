"""The training loop: frozen base, cached data and an adapter in, a stream of records out."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from krona.adapter import AdapterConfig
from krona.adapter_file import read_safetensors, write_safetensors
from krona.cache import Cache
from krona.checkpoint import Base
from krona.encode import LatentDist, PromptEmbeds, encode_latents, encode_prompts
from krona.errors import KronaError, NonFiniteLossError
from krona.inject import Adapter
from krona.objective import (
    FixedPairs,
    add_noise,
    added_conditions,
    fixed_pairs,
    min_snr_weights,
    target,
)
from krona.photos import Photos
from krona.prior import class_images
from krona.subject import Subject

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MAY_DIFFER_ON_RESUME = {"report_every", "num_fixed_pairs"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; equal configs on equal data give bit-equal adapters."""

    adapter: AdapterConfig
    learning_rate: float = 5e-4
    """Peak rate of AdamW."""
    steps: int = 500
    """Optimizer steps."""
    batch_size: int = 4
    """Images of the subject in one forward pass; prior preservation doubles what the UNet sees."""
    accumulation_steps: int = 1
    """Forward passes summed in one optimizer step."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: as it is, or falling to 0 at the last step."""
    warmup_steps: int = 0
    """Steps in which the rate rises linearly to its peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    """The gradient of all factors together is scaled down to this norm."""
    min_snr_gamma: float | None = None
    """Clamp of Min-SNR loss weighting (5 is usual); every timestep weighs the same without it."""
    prior_weight: float = 0.0
    """Weight of the loss on class images that the base generated; 0 is off."""
    num_class_images: int = 100
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic of the UNet; factors, optimizer and loss stay in float32."""
    seed: int = 0
    """Of batches, timesteps and noise."""
    report_every: int = 25
    """Steps between records."""
    num_fixed_pairs: int = 16
    """(timestep, noise) pairs of the fixed loss."""
    resolution: int | None = None
    """Side of the photos in pixels; the base's native one if not given."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "report_every"):
            if getattr(self, name) < 1:
                raise KronaError(f"{name}={getattr(self, name)} must be 1 or more")
        for name in ("learning_rate", "max_grad_norm", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise KronaError(f"{name}={getattr(self, name)} must be above 0 and finite")
        for name in ("warmup_steps", "prior_weight", "weight_decay"):
            if getattr(self, name) < 0:
                raise KronaError(f"{name}={getattr(self, name)} must be 0 or more")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"adapter": self.adapter.to_dict(), "betas": list(self.betas)}


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """What a run reads, encoded: of the photos and, for prior preservation, of class images.

    text: two prompts, the instance's and the class's, on the base's device.
    """

    latents: LatentDist
    class_latents: LatentDist | None
    text: PromptEmbeds
    resolution: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """The training at `step`; means are over the steps since the last record."""

    step: int
    train_loss: float
    """Mean weighted loss."""
    fixed_loss: float
    """Unweighted loss on the fixed (timestep, noise) pairs, the same for every run on the data."""
    learning_rate: float
    grad_norm: float
    """Mean norm before clipping."""
    step_s: float
    """Mean seconds of a step, without the fixed loss."""


def prepare_data(
    base: Base, subject: Subject, photos: Photos, config: TrainConfig, cache: Cache
) -> TrainData:
    """Encode what training reads, from the cache where it is there. Call it before injecting.

    Raises: KronaError if the photos' size is not the config's, or the UNet cannot take it.
    """
    resolution = photos.pixels.shape[-1]
    _check_resolution(base, resolution, config.resolution or base.resolution)
    text = encode_prompts(base, [subject.instance_prompt, subject.class_prompt], cache)
    class_latents = None
    if config.prior_weight:
        images = class_images(
            base,
            subject.class_prompt,
            num=config.num_class_images,
            resolution=resolution,
            cache=cache,
        )
        class_latents = encode_latents(base, images, cache)
    return TrainData(
        latents=encode_latents(base, photos, cache),
        class_latents=class_latents,
        text=text.to(base.device, base.dtype),
        resolution=resolution,
    )


class TrainState:
    """What changes while training: factors, moments, random numbers, step; saved and resumed."""

    def __init__(self, adapter: Adapter, config: TrainConfig) -> None:
        parameters = adapter.parameters()
        self.adapter = adapter
        self.step = 0
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(
            parameters[0].device.type, enabled=config.mixed_precision == "fp16"
        )
        self._config = config.to_dict()

    @classmethod
    def create(cls, adapter: Adapter, config: TrainConfig) -> "TrainState":
        """The state before the first step."""
        return cls(adapter, config)

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically."""
        tensors = {f"adapter.{name}": t for name, t in self.adapter.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        tensors["generator"] = self.generator.get_state()
        progress = {"step": self.step, "config": self._config, "scaler": self.scaler.state_dict()}
        write_safetensors(path, tensors, {"krona-state": json.dumps(progress)})

    @classmethod
    def load(cls, path: Path, adapter: Adapter, config: TrainConfig) -> "TrainState":
        """Continue where `save` was called; what follows is bit-equal to never having stopped.

        Raises: KronaError if the file is damaged, or of a run with other settings.
        """
        state = cls(adapter, config)
        tensors, metadata = read_safetensors(path)
        if "krona-state" not in metadata:
            raise KronaError(f"{path} holds no training state; resume from state.safetensors")
        progress = json.loads(metadata["krona-state"])
        _check_same_run(path, progress["config"], state._config)
        parts: dict[str, dict[str, Tensor]] = {"adapter": {}, "optimizer": {}, "generator": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        adapter.load_state_dict(parts["adapter"])
        state.optimizer.load_state_dict(
            state.optimizer.state_dict() | {"state": _by_parameter(parts["optimizer"])}
        )
        state.generator.set_state(parts["generator"][""])
        state.scaler.load_state_dict(progress["scaler"])
        state.step = progress["step"]
        return state


def train(base: Base, data: TrainData, state: TrainState, config: TrainConfig) -> Iterator[Record]:
    """Train the injected adapter up to `config.steps`.

    Yields: a record every `config.report_every` steps and at the last one; between records the
        state may be saved and the base sampled.
    Raises: NonFiniteLossError if the loss or its gradient becomes NaN or infinite.
    """
    if base.dtype == torch.float16 and config.mixed_precision != "fp16":
        raise KronaError("a float16 base needs mixed_precision='fp16', which scales the loss")
    pairs = _pairs(base, data, config)
    while state.step < config.steps:
        yield _train_until_report(base, data, state, config, pairs)


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of the step after `step` finished ones."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done_frac = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done_frac))


def _train_until_report(
    base: Base, data: TrainData, state: TrainState, config: TrainConfig, pairs: FixedPairs
) -> Record:
    """Step to the next multiple of `report_every`, or to the last step."""
    start, start_s = state.step, time.perf_counter()
    end = min(start - start % config.report_every + config.report_every, config.steps)
    sums = torch.zeros(2, device=base.device)
    while state.step < end:
        sums += _step(base, data, state, config)
    loss, grad_norm = (sums / (end - start)).tolist()
    step_s = (time.perf_counter() - start_s) / (end - start)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise NonFiniteLossError(
            f"training diverged before step {end}: mean loss {loss}, gradient norm {grad_norm} "
            f"at learning_rate={config.learning_rate}; try a tenth of it"
        )
    return Record(
        step=end,
        train_loss=loss,
        fixed_loss=_fixed_loss(base, data, config, pairs),
        learning_rate=learning_rate_at(end - 1, config),
        grad_norm=grad_norm,
        step_s=step_s,
    )


def _step(base: Base, data: TrainData, state: TrainState, config: TrainConfig) -> Tensor:
    """One optimizer step; its loss and gradient norm, (2,), left on the device."""
    optimizer, scaler = state.optimizer, state.scaler
    optimizer.param_groups[0]["lr"] = learning_rate_at(state.step, config)
    optimizer.zero_grad()
    total = torch.zeros((), device=base.device)
    for _ in range(config.accumulation_steps):
        loss = _batch_loss(base, data, state.generator, config) / config.accumulation_steps
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(
        state.adapter.parameters(), config.max_grad_norm, foreach=True
    )
    scaler.step(optimizer)
    scaler.update()
    state.step += 1
    if scaler.is_enabled():
        norm = norm.nan_to_num(posinf=0.0)  # the scaler skips such a step and lowers its scale
    return torch.stack([total, norm])


def _batch_loss(
    base: Base, data: TrainData, generator: torch.Generator, config: TrainConfig
) -> Tensor:
    """Weighted loss of a random batch: of the subject, plus of the class where it is asked for."""
    dists = [data.latents] if data.class_latents is None else [data.latents, data.class_latents]
    n = config.batch_size
    latents = torch.cat(
        [d.sample(torch.randint(len(d), (n,), generator=generator), generator) for d in dists]
    )
    noise = torch.randn(latents.shape, generator=generator)
    num_timesteps = len(base.scheduler.alphas_cumprod)
    timesteps = torch.randint(num_timesteps, (len(latents),), generator=generator)
    text = data.text[[kind for kind in range(len(dists)) for _ in range(n)]]
    losses = _losses(base, data, config, latents, noise, timesteps, text)
    if config.min_snr_gamma is not None:
        alpha_bar = base.scheduler.alphas_cumprod[timesteps]
        weights = min_snr_weights(alpha_bar, config.min_snr_gamma, base.prediction_type)
        losses = losses * weights.to(losses.device)
    kind_weights = torch.tensor([1.0, config.prior_weight][: len(dists)], device=losses.device)
    return losses.view(len(dists), n).mean(dim=1) @ kind_weights


def _losses(
    base: Base,
    data: TrainData,
    config: TrainConfig,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text: PromptEmbeds,
) -> Tensor:
    """Mean squared error of each image, (n,), in float32."""
    alpha_bar = base.scheduler.alphas_cumprod[timesteps]
    wanted = target(latents, noise, alpha_bar, base.prediction_type).to(base.device)
    added = None if text.pooled is None else added_conditions(text.pooled, data.resolution)
    with _autocast(base, config):
        predicted = base.unet(
            add_noise(latents, noise, alpha_bar).to(base.device, base.dtype),
            timesteps.to(base.device),
            text.embeds,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
    return F.mse_loss(predicted.float(), wanted, reduction="none").mean(dim=(1, 2, 3))


@torch.no_grad()
def _fixed_loss(base: Base, data: TrainData, config: TrainConfig, pairs: FixedPairs) -> float:
    """The loss on the fixed pairs, at the latents' means, in batches."""
    losses = []
    for start in range(0, len(pairs.images), config.batch_size):
        rows = slice(start, start + config.batch_size)
        latents = data.latents.mean[pairs.images[rows]]
        text = data.text[[0] * len(latents)]
        noise, timesteps = pairs.noise[rows], pairs.timesteps[rows]
        losses.append(_losses(base, data, config, latents, noise, timesteps, text))
    return float(torch.cat(losses).mean())


def _pairs(base: Base, data: TrainData, config: TrainConfig) -> FixedPairs:
    """The same pairs whatever the run's seed, so that runs can be compared."""
    return fixed_pairs(
        tuple(data.latents.mean.shape[1:]),
        num_images=len(data.latents),
        num_pairs=config.num_fixed_pairs,
        num_timesteps=len(base.scheduler.alphas_cumprod),
        generator=torch.Generator().manual_seed(0),
    )


def _autocast(base: Base, config: TrainConfig) -> AbstractContextManager[Any]:
    """Autocast without accelerate's Accelerator, whose state is one for the whole process."""
    dtype = _AUTOCAST.get(config.mixed_precision)
    return torch.autocast(base.device.type, dtype, enabled=dtype is not None)


def _by_parameter(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """{"3.exp_avg": t} as {3: {"exp_avg": t}}, which the optimizer reads."""
    nested: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        index, _, moment = name.partition(".")
        nested.setdefault(int(index), {})[moment] = tensor
    return nested


def _check_same_run(path: Path, saved: dict[str, Any], config: dict[str, Any]) -> None:
    for name, value in config.items():
        if name not in _MAY_DIFFER_ON_RESUME and saved.get(name) != value:
            raise KronaError(
                f"{path} is of a run with {name}={saved.get(name)}, not {value}; resume with the "
                "same settings, or start anew in another folder"
            )


def _check_resolution(base: Base, got: int, wanted: int) -> None:
    if got != wanted:
        raise KronaError(f"photos are {got} px wide, but the run's resolution is {wanted} px")
    check_pixel_unit(base.unet.config, base.resolution, got)


def check_pixel_unit(unet_config: Any, native: int, got: int) -> None:
    """Raise unless a UNet whose native side is `native` px can halve images of `got` px."""
    unit = native // unet_config.sample_size * 2 ** (len(unet_config.block_out_channels) - 1)
    if got % unit:
        raise KronaError(
            f"resolution={got} is no multiple of {unit} px, the UNet's coarsest cell; "
            f"{max(unit, round(got / unit) * unit)} is"
        )
