"""`krona eval`: the scores of adapters, side by side with the base."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tyro

from tune.config.trial import ExperimentConfig

if TYPE_CHECKING:
    from evals.scorer import Evaluation


def evaluate(
    adapters: tyro.conf.Positional[tuple[str, ...]],
    experiment: ExperimentConfig,
    *,
    any_base: bool = False,
    tracking_uri: str | None = None,
) -> None:
    """Score adapters on one subject: CLIP-T, CLIP-I, DINO with standard errors, and balance.

    Args:
        adapters: Adapter files, or the MLflow runs that hold them. Krona's own, LoRA or LoKr in
            kohya, LyCORIS, PEFT or diffusers form, or checkpoints of DiffuseKronA.
        any_base: Accept adapters that were trained on another base.
        tracking_uri: MLflow store of the runs. Unless given: $MLFLOW_TRACKING_URI or
            sqlite:///mlflow.db.
    """
    from krona.exchange.attach import attach
    from tune.records.adapted import find_adapter, short_names
    from tune.trials.resident import Resident

    labels = short_names(adapters, tracking_uri=tracking_uri)
    resident = Resident.load(experiment)
    evaluations = [resident.scorer.evaluate(resident.base)]
    for name in adapters:
        path = find_adapter(name, tracking_uri=tracking_uri)
        attached = attach(resident.base, path, is_any_base=any_base)
        try:
            evaluations.append(resident.scorer.evaluate(resident.base))
        finally:
            attached.eject()
    _print_scores(["base, no adapter", *labels], evaluations)
    _print_legend(labels, adapters)


def _print_scores(labels: Sequence[str], evaluations: Sequence["Evaluation"]) -> None:
    """A row for each adapter; its name is never cut, on narrow terminals numbers wrap."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    calibrated = ("subject", "prompt", "balance")
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("adapter", no_wrap=True)
    for name in (*(f"{name} ± se (n)" for name in evaluations[0].scores), *calibrated):
        table.add_column(name)
    for label, evaluation in zip(labels, evaluations, strict=True):
        cells = [f"{s.mean:.3f} ± {s.se:.3f} ({s.n})" for s in evaluation.scores.values()]
        cells += [f"{evaluation.calibrated[k]:.3f}" for k in calibrated]
        table.add_row(Text(label), *cells)
    Console().print(table)


def _print_legend(labels: Sequence[str], adapters: Sequence[str]) -> None:
    """The whole of each name that was shortened."""
    width = max(map(len, labels), default=0)
    for label, name in zip(labels, adapters, strict=True):
        if label != name:
            print(f"{label:<{width}}  {name}")
