"""The training loop: frozen base and runs in, their records out; several share each forward pass.

A run's numbers do not depend on which other runs it is advanced with, beyond rounding.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from krona.adapter.pack import Pack
from krona.base.checkpoint import Base
from krona.errors import KronaError, NonFiniteLossError
from krona.train.batches import batch_losses, fixed_batches, random_batch
from krona.train.config import TrainConfig
from krona.train.data import TrainData
from krona.train.schedule import learning_rate_at
from krona.train.state import TrainState


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
    """Mean seconds of a step, of all runs that share it, without the fixed loss."""


class Run:
    """One adapter's training: what it reads, what changes, what it was told."""

    def __init__(self, data: TrainData, state: TrainState, config: TrainConfig) -> None:
        self.data = data
        self.state = state
        self.config = config
        self._num_steps = 0
        self._seconds = 0.0
        self._sums = torch.zeros(2, device=state.flat.device)

    @property
    def is_done(self) -> bool:
        return self.state.step >= self.config.steps and not self.owes_record

    @property
    def owes_record(self) -> bool:
        """Whether a record belongs to the step that it stands at, and is still to be made."""
        step, config = self.state.step, self.config
        return self._num_steps > 0 and (step >= config.steps or step % config.report_every == 0)

    @property
    def steps_to_record(self) -> int:
        """Steps to the next multiple of report_every, or to the last step."""
        every, step = self.config.report_every, self.state.step
        return 0 if self.owes_record else min(every - step % every, self.config.steps - step)

    def add(self, num_steps: int, loss_and_norm: Tensor, seconds: float) -> None:
        """Count steps in the next record's means: the sums of their losses and norms, (2,)."""
        self._num_steps += num_steps
        self._seconds += seconds
        self._sums += loss_and_norm

    def outcome(self, fixed_loss: float) -> Record | NonFiniteLossError:
        """Close the means: the record, or what to raise if a loss or gradient is not finite."""
        loss, grad_norm = (self._sums / self._num_steps).tolist()
        step_s = self._seconds / self._num_steps
        self._num_steps, self._seconds, self._sums = 0, 0.0, torch.zeros_like(self._sums)
        step, config = self.state.step, self.config
        if not all(map(math.isfinite, (loss, grad_norm, fixed_loss))):
            return NonFiniteLossError(
                f"training diverged before step {step}: mean loss {loss}, gradient norm "
                f"{grad_norm}, fixed loss {fixed_loss} at learning_rate={config.learning_rate}; "
                "try a tenth of it"
            )
        return Record(
            step=step,
            train_loss=loss,
            fixed_loss=fixed_loss,
            learning_rate=learning_rate_at(step - 1, config),
            grad_norm=grad_norm,
            step_s=step_s,
        )


def train(base: Base, data: TrainData, state: TrainState, config: TrainConfig) -> Iterator[Record]:
    """Train one adapter, injected or not, up to `config.steps`.

    Yields: a record every `config.report_every` steps and at the last one; between records the
        state may be saved and the base sampled.
    Raises: NonFiniteLossError if the loss or its gradient becomes NaN or infinite.
    """
    run = Run(data, state, config)
    while not run.is_done:
        (outcome,) = advance(base, [run])
        if isinstance(outcome, NonFiniteLossError):
            raise outcome
        if outcome is not None:
            yield outcome


def advance(base: Base, runs: Sequence[Run]) -> list[Record | NonFiniteLossError | None]:
    """Train the runs together, up to the first record of any.

    Runs of equal adapter shapes and batch sizes that stand side by side share their products.

    Args:
        runs: at least one, none of them done, each with an adapter of its own.
    Returns: for each run its record, or why it has none, or None if none is due yet.
    Raises: KronaError if the runs cannot share a forward pass, or whatever else went wrong, such as
        torch.OutOfMemoryError; the runs then stand at the last step that they made, to go on with
        whichever others.
    """
    _check_alike(base, runs)
    num_steps = min(run.steps_to_record for run in runs)
    with Pack(base.network, [run.state.adapter for run in runs]) as pack:
        _make_steps(base, runs, pack, num_steps)
        is_due = [run.owes_record for run in runs]
        fixed = _fixed_losses(base, runs, is_due, pack)
    return [
        run.outcome(loss) if due else None
        for run, due, loss in zip(runs, is_due, fixed, strict=True)
    ]


def _make_steps(base: Base, runs: Sequence[Run], pack: Pack, num_steps: int) -> None:
    """Advance all by `num_steps`; where a step fails, those before it count."""
    made: list[Tensor] = []
    start_s = time.perf_counter()
    try:
        for _ in range(num_steps):
            with _as_if_never_drawn(runs):
                made.append(_step(base, runs, pack))
    finally:
        if made:
            seconds = time.perf_counter() - start_s
            for run, loss_and_norm in zip(runs, torch.stack(made).sum(0), strict=True):
                run.add(len(made), loss_and_norm, seconds)


@contextmanager
def _as_if_never_drawn(runs: Sequence[Run]) -> Iterator[None]:
    """Have the runs draw the same random numbers again for a step that they could not make.

    Nothing else of a run changes before its optimizer's step, which needs no memory of its own.
    """
    before = [(run.state, run.state.step, run.state.generator.get_state()) for run in runs]
    try:
        yield
    except BaseException:
        for state, step, drawn in before:
            if state.step == step:
                state.generator.set_state(drawn)
        raise


def _step(base: Base, runs: Sequence[Run], pack: Pack) -> Tensor:
    """One optimizer step of each run; its loss and gradient norm, (runs, 2), left on the device."""
    states = [run.state for run in runs]
    config, resolution = runs[0].config, runs[0].data.resolution
    for run, state in zip(runs, states, strict=True):
        state.optimizer.param_groups[0]["lr"] = learning_rate_at(state.step, run.config)
        state.optimizer.zero_grad(set_to_none=False)
    totals = torch.zeros(len(runs), device=base.device)
    for _ in range(config.accumulation_steps):
        batches = [random_batch(base, r.data, r.config, r.state.generator) for r in runs]
        pack.set_rows([len(batch) for batch in batches])
        losses = batch_losses(base, batches, resolution=resolution, config=config)
        losses = losses / config.accumulation_steps
        scaled = [s.scaler.scale(loss) for s, loss in zip(states, losses, strict=True)]
        torch.autograd.backward(scaled)
        totals += losses.detach()
    norms = [_update(run) for run in runs]
    return torch.stack([totals, torch.stack(norms)], dim=1)


def _update(run: Run) -> Tensor:
    """Clip the run's gradient and step its optimizer; the norm before clipping."""
    state, scaler = run.state, run.state.scaler
    scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.flat, run.config.max_grad_norm)
    scaler.step(state.optimizer)
    scaler.update()
    state.count_step()
    if scaler.is_enabled():
        norm = norm.nan_to_num(posinf=0.0)  # the scaler skips such a step and lowers its scale
    return norm


@torch.no_grad()
def _fixed_losses(
    base: Base, runs: Sequence[Run], is_due: Sequence[bool], pack: Pack
) -> list[float]:
    """The loss on the fixed pairs of each run that is due, NaN of the others."""
    queues = [
        fixed_batches(base, run.data, run.config) if due else iter(())
        for run, due in zip(runs, is_due, strict=True)
    ]
    totals = [0.0 if due else math.nan for due in is_due]
    for round_ in zip_longest(*queues):
        pack.set_rows([0 if batch is None else len(batch) for batch in round_])
        batches = [batch for batch in round_ if batch is not None]
        losses = batch_losses(
            base, batches, resolution=runs[0].data.resolution, config=runs[0].config
        ).tolist()
        for i, batch in enumerate(round_):
            if batch is not None:
                totals[i] += losses.pop(0)
    return totals


def _check_alike(base: Base, runs: Sequence[Run]) -> None:
    """Raise unless the runs can share a forward pass on the base."""
    first = runs[0]
    for run in runs:
        if base.dtype == torch.float16 and run.config.mixed_precision != "fp16":
            raise KronaError("a float16 base needs mixed_precision='fp16', which scales the loss")
        for name in ("mixed_precision", "accumulation_steps"):
            one, other = getattr(first.config, name), getattr(run.config, name)
            if one != other:
                raise KronaError(
                    f"runs with {name}={one} and {other} cannot be trained together; "
                    "give them the same, or train them one by one"
                )
        if first.config.adapter.adapts_text != run.config.adapter.adapts_text:
            raise KronaError(
                "runs that adapt the text encoders and runs that do not cannot be trained "
                "together; train them one by one"
            )
        if run.data.resolution != first.data.resolution:
            raise KronaError(
                f"runs at {first.data.resolution} and {run.data.resolution} px cannot be trained "
                "together; give them photos of one size, or train them one by one"
            )
