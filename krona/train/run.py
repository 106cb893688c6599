"""One adapter's training: data, state and settings in; a record of its last steps out."""

import math
from dataclasses import dataclass

from krona.errors import NonFiniteLossError
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
    """One adapter's training: what it reads, what changes, what it was told.

    Attributes:
        num_parts: forward passes that a batch of it takes where memory is short.
    """

    def __init__(self, data: TrainData, state: TrainState, config: TrainConfig) -> None:
        self.data = data
        self.state = state
        self.config = config
        self.num_parts = 1
        self._num_steps = 0
        self._seconds = 0.0
        self._loss_sum = self._norm_sum = 0.0

    @property
    def num_rows(self) -> int:
        """Images of a batch, those of the class included."""
        return self.config.batch_size * (1 if self.data.class_latents is None else 2)

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

    def add(self, num_steps: int, loss_sum: float, norm_sum: float, seconds: float) -> None:
        """Count steps in the next record's means: the sums of their losses and norms."""
        self._num_steps += num_steps
        self._seconds += seconds
        self._loss_sum += loss_sum
        self._norm_sum += norm_sum

    def outcome(self, fixed_loss: float) -> Record | NonFiniteLossError:
        """Close the means: the record, or what to raise if a loss or gradient is not finite."""
        sums = self._loss_sum, self._norm_sum, self._seconds
        loss, grad_norm, step_s = (each / self._num_steps for each in sums)
        self._num_steps, self._loss_sum, self._norm_sum, self._seconds = 0, 0.0, 0.0, 0.0
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
