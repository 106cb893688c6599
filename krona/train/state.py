"""What changes while training: factors, their average, moments, random numbers, step; resumable."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from krona.adapter.inject import Adapter
from krona.base.arithmetic import loss_scaler
from krona.errors import KronaError
from krona.storage.tensors import read_safetensors, write_safetensors
from krona.train.config import TrainConfig

_MAY_DIFFER_ON_RESUME = {"report_every", "num_fixed_pairs"}


class TrainState:
    """The changing part of one run; new, it stands before the first step.

    Attributes:
        flat: (P,) all factors side by side; the adapter's parameters and gradients are views of it.
        optimizer: AdamW over flat.
        average: (P,) moving average of flat, or None where the config keeps none.
    """

    def __init__(self, adapter: Adapter, config: TrainConfig) -> None:
        self.adapter = adapter
        self.step = 0
        self.generator = torch.Generator().manual_seed(config.seed)
        self.flat = _lay_side_by_side(adapter.parameters())
        self.optimizer = torch.optim.AdamW(
            [self.flat],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._moments = self.optimizer.state[self.flat] = _no_moments(self.flat)
        self.scaler = loss_scaler(self.flat.device, config.mixed_precision)
        self.average = self.flat.detach().clone() if config.ema_decay else None
        self._ema_decay = config.ema_decay
        self._config = config.to_dict()

    @torch.no_grad()
    def count_step(self) -> None:
        """Say that the optimizer has made a step. The first ones weigh alike in the average."""
        self.step += 1
        if self.average is not None:
            self.average.lerp_(self.flat, max(1 - self._ema_decay, 1 / self.step))

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically."""
        tensors = {f"adapter.{name}": t for name, t in self.adapter.state_dict().items()}
        tensors |= {f"optimizer.{name}": t for name, t in self._moments.items()}
        tensors["generator"] = self.generator.get_state()
        if self.average is not None:
            tensors["average"] = self.average
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
        state._restore(tensors, progress)
        return state

    def _restore(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.adapter.load_state_dict(parts["adapter"])
        for name, moment in self._moments.items():
            moment.copy_(parts["optimizer"][name])
        self.generator.set_state(parts["generator"][""])
        if self.average is not None:
            self.average.copy_(parts["average"][""])
        self.scaler.load_state_dict(dict(progress["scaler"]))
        self.step = progress["step"]


@contextmanager
def averaged(states: Sequence[TrainState]) -> Iterator[None]:
    """Have the adapters hold their averages within the block, those that keep one."""
    latest = [state.flat.detach().clone() for state in states]
    for state in states:
        if state.average is not None:
            state.flat.data.copy_(state.average)
    try:
        yield
    finally:
        for state, flat in zip(states, latest, strict=True):
            state.flat.data.copy_(flat)


def _lay_side_by_side(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """One parameter of them all, with a gradient of zeros; they become views of it."""
    flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, value, gradient in zip(
        parameters, torch.split(flat.detach(), sizes), torch.split(flat.grad, sizes), strict=True
    ):
        parameter.data = value.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return flat


def _no_moments(flat: Tensor) -> dict[str, Tensor]:
    """AdamW's state before its first step, which would else make it: there memory may be short."""
    return {
        "step": torch.zeros((), device=flat.device),
        "exp_avg": torch.zeros_like(flat),
        "exp_avg_sq": torch.zeros_like(flat),
    }


def _check_same_run(path: Path, saved: dict[str, Any], config: dict[str, Any]) -> None:
    for name, value in config.items():
        if name not in _MAY_DIFFER_ON_RESUME and saved.get(name) != value:
            raise KronaError(
                f"{path} is of a run with {name}={saved.get(name)}, not {value}; resume with the "
                "same settings, or start anew in another folder"
            )
