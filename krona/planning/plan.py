"""An adapter's settings and a base's name in; out, its size and what training it costs.

Everything follows from the base's configurations: no weights are read, and nothing is computed.
"""

from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from krona.adapter.inject import Adapter, attention_linears, check_fit, inject
from krona.adapter.layers import AdapterConfig
from krona.base.arithmetic import DTYPES, Precision
from krona.base.skeleton import Skeleton, build_skeleton
from krona.base.source import BaseSource
from krona.errors import KronaError, check_choice
from krona.exchange.formats.merged_file import odd_parts
from krona.exchange.formats.squares import Shape
from krona.planning.dry_step import dry_step
from krona.planning.loaders import Loader, exact_lora_rank, loaders
from krona.planning.plan_cache import remembered_plan
from krona.planning.trace import StepCost
from krona.storage.tensors import float32_file_bytes
from krona.train.config import Mixed
from krona.train.data import check_pixel_unit


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is to be planned.

    Attributes:
        adapter: its kind, factors or rank, and targets; where it adapts text, the text encoders run
            in every step.
        resolution: side of the training images in pixels; the base's native one if not given.
        batch_size: images in one forward pass.
        precision: of the base's weights.
        mixed_precision: arithmetic of the UNet by autocast, as in TrainConfig.
        has_checkpointing: recompute each block in the backward instead of keeping what it made.
        keeps_encoders: the autoencoder and the text encoders stay on the device.
        keeps_average: a moving average of the adapter is kept.
    """

    adapter: AdapterConfig
    resolution: int | None = None
    batch_size: int = 4
    precision: Precision = "fp32"
    mixed_precision: Mixed = "no"
    has_checkpointing: bool = False
    keeps_encoders: bool = True
    keeps_average: bool = True

    @property
    def bytes_per_param(self) -> int:
        """Of an adapter: its value, gradient, AdamW's two moments, the average; all in float32.

        Four more are needed while it is scored or saved, when no activations are there.
        """
        return 4 * (5 if self.keeps_average else 4)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("mixed_precision", self.mixed_precision, get_args(Mixed))
        for name in ("batch_size", "resolution"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KronaError(f"{name}={value} must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the device at the peak of a training step, by part; their sum is the peak.

    Attributes:
        unet, text_encoders, vae: weights and buffers; 0 where a part is not kept.
        adapter: factors, gradients, moments and average, PlanConfig.bytes_per_param each.
        saved: what the forward keeps for the backward.
        transient: what is alive beside that at the worst moment.
    """

    unet: int
    text_encoders: int
    vae: int
    adapter: int
    saved: int
    transient: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an adapter is and costs.

    Attributes:
        num_layers: adapted linear layers.
        num_params: of the adapter, num_text_params of them in the text encoders.
        num_base_params: of what it adapts: the UNet, and the text encoders if they are adapted.
        file_bytes: of the adapter file without its manifest, about 1 kB.
        forward_flops, backward_flops: of one step; a multiply and an add are two.
        lora_rank: the least rank of a LoRA with the same updates.
    """

    base: str
    family: str
    resolution: int
    num_layers: int
    num_params: int
    num_text_params: int
    num_base_params: int
    file_bytes: int
    memory: Memory
    forward_flops: int
    backward_flops: int
    lora_rank: int
    loaders: tuple[Loader, ...]

    @property
    def step_flops(self) -> int:
        return self.forward_flops + self.backward_flops

    @property
    def share_frac(self) -> float:
        """The adapter's parameters over the base's."""
        return self.num_params / self.num_base_params

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the sums and the share."""
        values = asdict(self) | {"share_frac": self.share_frac, "step_flops": self.step_flops}
        values["memory"]["total"] = self.memory.total
        return values


def make_plan(base: str | BaseSource, config: PlanConfig) -> Plan:
    """Size and cost of training an adapter on a base; a machine computes each but once.

    Args:
        base: "sd15", "sd21", "sd21-base", "sdxl", or what load_base takes; only its configs are
            read.
    Raises: KronaError if there is no such base, or the factors or the resolution do not fit it.
    """
    source = BaseSource.of(base)
    values = remembered_plan(source, config, lambda: asdict(_trace(source, config)))
    values["memory"] = Memory(**values["memory"])
    values["loaders"] = tuple(Loader(**loader) for loader in values["loaders"])
    return Plan(**values | {"base": source.name})


def _trace(base: BaseSource, config: PlanConfig) -> Plan:
    with FakeTensorMode():
        skeleton = build_skeleton(base, DTYPES[config.precision])
        resolution = config.resolution or skeleton.resolution
        check_pixel_unit(skeleton.unet.config, skeleton.resolution, resolution)
        adapted = _adapted(skeleton, config)
        num_base_params = sum(p.numel() for module in adapted.values() for p in module.parameters())
        weights = _weight_bytes(skeleton, config)
        adapters = _inject(adapted, config.adapter)
        cost = dry_step(
            skeleton,
            resolution=resolution,
            batch_size=config.batch_size,
            autocast=DTYPES.get(config.mixed_precision),
            adapts_text=config.adapter.adapts_text,
            has_checkpointing=config.has_checkpointing,
        )
    shapes = _layer_shapes(adapters)
    num_params = sum(adapter.num_params for adapter in adapters.values())
    return Plan(
        base=base.name,
        family=skeleton.family,
        resolution=resolution,
        num_layers=len(shapes),
        num_params=num_params,
        num_text_params=num_params - adapters["unet"].num_params,
        num_base_params=num_base_params,
        file_bytes=float32_file_bytes(_tensor_shapes(adapters)),
        memory=_memory(weights, num_params * config.bytes_per_param, cost),
        forward_flops=cost.forward_flops,
        backward_flops=cost.backward_flops,
        lora_rank=exact_lora_rank(config.adapter, shapes),
        loaders=tuple(
            loaders(config.adapter, shapes, odd_parts=odd_parts(skeleton.unet, skeleton.vae))
        ),
    )


def _adapted(skeleton: Skeleton, config: PlanConfig) -> dict[str, nn.Module]:
    """Component → module that gets adapters."""
    encoders = skeleton.text_encoders if config.adapter.adapts_text else ()
    names = ("text_encoder", "text_encoder_2")
    return {"unet": skeleton.unet, **dict(zip(names, encoders, strict=False))}


def _inject(adapted: dict[str, nn.Module], config: AdapterConfig) -> dict[str, Adapter]:
    """An adapter in each module, once the factors fit all of them."""
    if config.kind == "krona":
        linears = {
            f"{component}.{path}": linear
            for component, module in adapted.items()
            for path, linear in attention_linears(module, config.targets).items()
        }
        check_fit(linears, config)
    return {component: inject(module, config, seed=0) for component, module in adapted.items()}


def _weight_bytes(skeleton: Skeleton, config: PlanConfig) -> dict[str, int]:
    """Bytes of the frozen parts on the device."""
    keeps_text = config.keeps_encoders or config.adapter.adapts_text
    return {
        "unet": num_bytes(skeleton.unet),
        "text_encoders": sum(map(num_bytes, skeleton.text_encoders)) if keeps_text else 0,
        "vae": num_bytes(skeleton.vae) if config.keeps_encoders else 0,
    }


def num_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(t.nbytes for tensors in (module.parameters(), module.buffers()) for t in tensors)


def _memory(weights: dict[str, int], adapter_bytes: int, cost: StepCost) -> Memory:
    return Memory(
        **weights,
        adapter=adapter_bytes,
        saved=cost.saved_bytes,
        transient=cost.peak_bytes - cost.saved_bytes,
    )


def _layer_shapes(adapters: dict[str, Adapter]) -> dict[str, Shape]:
    return {
        f"{component}.{path}": (layer.base.weight.shape[0], layer.base.weight.shape[1])
        for component, adapter in adapters.items()
        for path, layer in adapter.layers.items()
    }


def _tensor_shapes(adapters: dict[str, Adapter]) -> dict[str, torch.Size]:
    """Name → shape in the adapter file; of the text encoders, the component is in the name."""
    return {
        name if component == "unet" else f"{component}.{name}": tensor.shape
        for component, adapter in adapters.items()
        for name, tensor in adapter.state_dict().items()
    }
