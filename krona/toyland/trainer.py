"""One training loop for all three stages: a loss function enters, trained modules leave.

The loop owns the steps, the learning rate, the running average and the state file; it knows
nothing of what is trained.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from krona.toyland.scenes import Scene, pixels
from krona.toyland.schedule import Schedule

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long to train and where the resumable state lies."""

    steps: int
    state_path: Path
    save_every: int = 500
    log_every: int = 50
    ema_decay: float | None = None
    on_save: Callable[[int], None] = lambda step: None
    """Called with the step after each save, with the averaged weights in place."""


@dataclass(kw_only=True)
class Trainer:
    """Runs optimizer steps from wherever the state file stands."""

    config: TrainerConfig
    modules: Mapping[str, nn.Module]
    optimizers: Sequence[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    average: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Load the state file if there is one."""
        self.parameters = [p for module in self.modules.values() for p in module.parameters()]
        self.peak_lrs = [group["lr"] for group in self._groups()]
        if self.config.ema_decay is not None:
            self.average = [p.detach().clone() for p in self.parameters]
        if self.config.state_path.exists():
            self._load(torch.load(self.config.state_path, map_location="cpu", weights_only=True))

    def loop(self, loss_of_batch: Callable[[], tuple[Tensor, Metrics]], schedule: Schedule) -> None:
        """Train to config.steps, then leave the averaged weights (if any) in the modules.

        Raises: FloatingPointError on a loss that is not finite.
        """
        with _progress() as bar:
            task = bar.add_task("training", total=self.config.steps, completed=self.step)
            started = time.monotonic() - self.seconds
            while self.step < self.config.steps:
                metrics = self._one_step(loss_of_batch, schedule(self.step))
                self.seconds = time.monotonic() - started
                bar.update(task, completed=self.step)
                self._report(bar, metrics)
        self.save()
        if self.average:
            self._swap()

    def save(self) -> None:
        """Write the state file in one move and call on_save."""
        path = self.config.state_path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(self._state(), partial)
        partial.replace(path)
        if self.average:
            self._swap()
        self.config.on_save(self.step)
        if self.average:
            self._swap()

    def _one_step(
        self, loss_of_batch: Callable[[], tuple[Tensor, Metrics]], lr_share: float
    ) -> Metrics:
        for group, peak in zip(self._groups(), self.peak_lrs, strict=True):
            group["lr"] = peak * lr_share
        loss, metrics = loss_of_batch()
        value = loss.item()
        if not -1e9 < value < 1e9:
            raise FloatingPointError(
                f"loss is {value} at step {self.step}; try a lower learning rate"
            )
        for parameter in self.parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self._update_average()
        return {"loss": value, **metrics}

    def _groups(self) -> list[dict[str, Any]]:
        """Return the optimizers' groups as they are now: loading a state replaces them."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _update_average(self) -> None:
        if self.config.ema_decay is not None:
            decay = min(self.config.ema_decay, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, averaged in zip(self.parameters, self.average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(averaged)
            averaged.copy_(kept)

    def _report(self, bar: Progress, metrics: Metrics) -> None:
        if self.step % self.config.log_every == 0:
            told = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            bar.console.print(f"step {self.step}  {self.seconds:.0f} s  {told}")
        if self.step % self.config.save_every == 0 and self.step < self.config.steps:
            self.save()

    def _state(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
        }

    @torch.no_grad()
    def _load(self, state: dict[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        for averaged, saved in zip(self.average, state["average"], strict=True):
            averaged.copy_(saved)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns)


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 where the matrix units have it; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16)


def to_pixels(scenes: list[Scene], device: torch.device) -> Tensor:
    """Stack scenes into (num, 3, size, size) float32 in -1..1, channels last."""
    stacked = torch.from_numpy(pixels(scenes)).to(device).permute(0, 3, 1, 2)
    return stacked.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
