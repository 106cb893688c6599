"""The training loop: frozen base and runs in, their records out; several share each forward pass.

A run's numbers do not depend on which other runs it is advanced with, beyond rounding.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

import torch
from torch import Tensor

from krona.adapter.pack import Pack
from krona.base.checkpoint import Base
from krona.errors import KronaError, NonFiniteLossError
from krona.train.batches import Batch, batch_losses, fixed_batches, random_batch
from krona.train.config import TrainConfig
from krona.train.data import TrainData
from krona.train.run import Record, Run
from krona.train.schedule import learning_rate_at
from krona.train.shrink import or_with_less
from krona.train.state import TrainState


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
    Raises: KronaError if the runs cannot share a forward pass, torch.OutOfMemoryError if several do
        not fit into memory together, DoesNotFitError if one does not by itself, or whatever else
        went wrong; the runs then stand at the last step that they made, to go on with whichever
        others.
    """
    _check_alike(base, runs)
    num_steps = min(run.steps_to_record for run in runs)
    with Pack(base.network, [run.state.adapter for run in runs]) as pack:
        _make_steps(base, runs, pack, num_steps)
        is_due = [run.owes_record for run in runs]
        fixed = or_with_less(base, runs, lambda: _fixed_losses(base, runs, is_due, pack))
    return [
        run.outcome(loss) if due else None
        for run, due, loss in zip(runs, is_due, fixed.tolist(), strict=True)
    ]


def _make_steps(base: Base, runs: Sequence[Run], pack: Pack, num_steps: int) -> None:
    """Advance all by `num_steps`; where a step fails, those before it count."""
    made: list[Tensor] = []
    start_s = time.perf_counter()
    try:
        for _ in range(num_steps):
            step = or_with_less(base, runs, lambda: _step(base, runs, pack))
            made.append(step)
    finally:
        if made:
            sums = torch.stack(made).sum(0).tolist()  # the one wait for the device, and so timed
            seconds = time.perf_counter() - start_s
            for run, (loss_sum, norm_sum) in zip(runs, sums, strict=True):
                run.add(len(made), loss_sum, norm_sum, seconds)


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
    with _as_if_never_drawn(runs):
        totals = _accumulate(base, runs, pack)
        norms = [_update(run) for run in runs]
    return torch.stack([totals, torch.stack(norms)], dim=1)


def _accumulate(base: Base, runs: Sequence[Run], pack: Pack) -> Tensor:
    """Have the runs' gradients; their losses, (runs,)."""
    states = [run.state for run in runs]
    config, resolution = runs[0].config, runs[0].data.resolution
    for run, state in zip(runs, states, strict=True):
        state.optimizer.param_groups[0]["lr"] = learning_rate_at(state.step, run.config)
        state.optimizer.zero_grad(set_to_none=False)
    totals = torch.zeros(len(runs), device=base.device)
    for _ in range(config.accumulation_steps):
        batches = [random_batch(base, r.data, r.config, r.state.generator) for r in runs]
        for parts in _parts(runs, batches):
            pack.set_rows([len(part) for part in parts])
            losses = batch_losses(base, parts, resolution=resolution, config=config)
            losses = losses / config.accumulation_steps
            scaled = [s.scaler.scale(loss) for s, loss in zip(states, losses, strict=True)]
            torch.autograd.backward(scaled)
            totals += losses.detach()
    return totals


def _parts(runs: Sequence[Run], batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
    """What goes through the UNet at once: the runs' batches, or parts of a single run's."""
    if len(runs) > 1:
        yield batches
    else:
        yield from ([part] for part in batches[0].parts(runs[0].num_parts))


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
def _fixed_losses(base: Base, runs: Sequence[Run], is_due: Sequence[bool], pack: Pack) -> Tensor:
    """The loss on the fixed pairs of each run that is due, 0 of the others: (runs,)."""
    queues = [
        fixed_batches(base, run.data, run.config, num_parts=run.num_parts) if due else iter(())
        for run, due in zip(runs, is_due, strict=True)
    ]
    totals = torch.zeros(len(runs), device=base.device)
    for round_ in zip_longest(*queues):
        present = [i for i, batch in enumerate(round_) if batch is not None]
        pack.set_rows([0 if batch is None else len(batch) for batch in round_])
        losses = batch_losses(
            base,
            [round_[i] for i in present],
            resolution=runs[0].data.resolution,
            config=runs[0].config,
        )
        for i, loss in zip(present, losses, strict=True):
            totals[i] += loss
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
