"""What a sweep is told: SweepConfig, its validation, and its JSON form, which --resume reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from krona.errors import KronaError
from tune.config.trial import ExperimentConfig, TrialSettings, quarter
from tune.names import check_name, resolve_tracking_uri

DEFAULT_TRIALS = 16
DEFAULT_PATIENCE = 2
DEFAULT_FINALISTS = 3
DEFAULT_FINAL_IMAGES = 168
MAX_SEED = 2**31  # NumPy's is twice that; a resumed search adds its trials to the seed


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Search the settings of an adapter for one subject."""

    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    """What all trials share: subject, base, scorer."""
    trials: int | None = None
    """Number of trials, the paper's default setting among them. Unless given: 16; with --resume as
    many as the sweep was started with, and more extend it."""
    steps: int = TrialSettings.steps
    """Optimizer steps that a trial has at most; pruning and --patience give it fewer. Its result is
    its best evaluation. The paper's default has no more than its own 1000."""
    learning_rate: tuple[float, float] = (1e-4, 3e-2)
    """Lowest and highest AdamW learning rate; searched on a log scale."""
    factors: tuple[tuple[int, int], ...] | None = None
    """Pairs (a1, a2) to search. Unless given: all that divide every adapted layer, have at most
    --max-params parameters and fit into the memory."""
    max_params: int | None = None
    """Parameters of the largest adapter to search. Unless given: those of a LoRA of rank 64, or any
    with --factors."""
    targets: tuple[str, ...] = ("qkvo", "qkv", "kv", "qv")
    """Sets of adapted attention projections to search, as letters out of q, k, v, o."""
    init: tuple[Literal["kaiming", "normal"], ...] = ("kaiming", "normal")
    """Distributions of A's starting values to search."""
    finalists: int | None = None
    """Best trials that are scored again at the end, with noise that none was judged by, and the
    paper's default with them; the best of these is the champion. 0 takes the best single look.
    Unless given: 3."""
    final_images: int | None = None
    """Images of a finalist at most; fewer where its balance is known to ± 0.02 by then, or where it
    is beyond doubt behind another. Unless given: 168."""
    confirm: int | None = None
    """Further seeds that each finalist is trained with, 2 or more; the champion then is the best on
    average over them, with an interval over seeds. Unless given: none."""
    seed: int = 0
    """Seed of the search and of every trial."""
    slots: int | None = None
    """Copies of the base that train. Unless given: one per GPU, else from the CPU cores."""
    gpus_per_slot: float | None = None
    """GPUs of a slot where the cluster has any; 0.5 puts two slots on a GPU. Unless given: 1."""
    min_gpus: int | None = None
    """GPUs to wait for where a cluster's nodes still start; an autoscaler is told to start as many.
    Unless given: those that are there."""
    pack: int | Literal["auto"] | None = None
    """Trials that a slot trains at once over one copy of the base; more are faster on a device that
    one trial does not fill, and the search learns from fewer finished ones. 'auto' is as many as
    are measured to be faster. Unless given: 1."""
    cpus_per_slot: int | None = None
    """CPU cores, and torch threads, of a slot. Unless given: the cores shared out evenly."""
    max_concurrent: int | None = None
    """Trials in flight at the same time. Unless given: slots times pack."""
    tracking_uri: str | None = None
    """MLflow store. Unless given: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db in this folder."""
    storage: Path = Path("krona-runs")
    """Folder that gets one folder per sweep; several machines must share it."""
    name: str | None = None
    """Name of the sweep. Unless given: subject and time; with --resume the newest of the
    subject."""
    resume: bool = False
    """Continue a stopped sweep with the settings it was started with; how it runs (slots and what
    they take, pack, max_concurrent, address, tracking_uri) may be given anew, and the finalists'
    round."""
    address: str | None = None
    """Ray cluster to join, or 'auto'. Unless given: $RAY_ADDRESS, else start Ray on this
    machine."""
    experiment_module: str = "tune.trials.experiment"
    """Python module that trains and scores a trial."""

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name("sweep", self.name, "--name")
        counts = "trials", "steps", "max_params", "slots", "min_gpus", "pack", "final_images"
        for name in (*counts, "cpus_per_slot", "max_concurrent"):
            value = getattr(self, name)
            if value is not None and value != "auto" and value < 1:
                raise KronaError(f"{name}={value} must be 1 or more")
        if self.gpus_per_slot is not None and self.gpus_per_slot <= 0:
            raise KronaError(f"gpus_per_slot={self.gpus_per_slot} must be above 0: 1, or 0.5")
        if not 0 <= self.seed < MAX_SEED:
            raise KronaError(f"seed={self.seed} must be 0 or more, and below {MAX_SEED}")
        low, high = self.learning_rate
        if not 0 < low < high:
            raise KronaError(f"learning_rate={low} {high} must be two rising numbers above 0")
        self._check_choices()
        self._check_finals()

    def _check_choices(self) -> None:
        for name in ("factors", "targets", "init"):
            choices = getattr(self, name)
            if choices is not None and not choices:
                raise KronaError(f"{name} is empty; leave it out to search all, or name one")
        for letters in self.targets:
            TrialSettings(targets=letters)
        for pair in self.factors or ():
            if min(pair) < 1:
                raise KronaError(f"factors={pair} must be whole numbers above 0: (4, 64)")

    def _check_finals(self) -> None:
        if self.finalists is not None and self.finalists < 0:
            raise KronaError(f"finalists={self.finalists} must be 0 or more")
        if self.confirm is not None and (self.confirm < 0 or self.confirm == 1):
            raise KronaError(f"confirm={self.confirm} must be 0, or 2 or more for an interval")

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep."""
        return self.trials or DEFAULT_TRIALS

    @property
    def num_finalists(self) -> int:
        """Best trials that are scored again."""
        return DEFAULT_FINALISTS if self.finalists is None else self.finalists

    @property
    def num_final_images(self) -> int:
        """Images of a finalist at most."""
        return self.final_images or DEFAULT_FINAL_IMAGES

    @property
    def eval_every(self) -> int:
        """Steps between evaluations: as given, or a quarter of the steps."""
        return min(self.experiment.eval_every or quarter(self.steps), self.steps)

    @property
    def patience(self) -> int:
        """Evaluations without a better balance after which a trial ends; 0 is never."""
        if self.experiment.patience is not None:
            return self.experiment.patience
        return 0 if self.experiment.schedule == "cosine" else DEFAULT_PATIENCE

    def tracking(self) -> str:
        """The MLflow URI that the sweep is recorded under."""
        return resolve_tracking_uri(self.tracking_uri)


_adapter = TypeAdapter(SweepConfig)


def to_json(config: SweepConfig) -> str:
    """Write `config` as JSON."""
    return _adapter.dump_json(config, indent=2).decode()


def from_json(text: str) -> SweepConfig:
    """Read what `to_json` wrote."""
    return _adapter.validate_json(text)
