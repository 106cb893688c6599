"""`krona eval`: the scores of adapters, side by side with the base."""

import tyro

from tune.config.trial import ExperimentConfig


def evaluate(
    adapters: tyro.conf.Positional[tuple[str, ...]],
    experiment: ExperimentConfig,
    *,
    any_base: bool = False,
    tracking_uri: str | None = None,
) -> None:
    """Score adapters on one subject: CLIP-T, CLIP-I, DINO with standard errors, and balance.

    Args:
        adapters: Adapter files, or the MLflow runs that hold them.
        any_base: Accept adapters that were trained on another base.
        tracking_uri: MLflow store of the runs. Unless given: $MLFLOW_TRACKING_URI or
            sqlite:///mlflow.db.
    """
    from rich.console import Console
    from rich.table import Table

    from krona.exchange.attach import attach
    from tune.records.adapted import find_adapter
    from tune.trials.resident import Resident

    resident = Resident.load(experiment)
    rows = {"base, no adapter": resident.scorer.evaluate(resident.base)}
    for name in adapters:
        path = find_adapter(name, tracking_uri=tracking_uri)
        attached = attach(resident.base, path, is_any_base=any_base)
        try:
            rows[name] = resident.scorer.evaluate(resident.base)
        finally:
            attached.eject()
    scores = list(next(iter(rows.values())).scores)
    calibrated = ("subject", "prompt", "balance")
    table = Table("adapter", *(f"{name} ± se (n)" for name in scores), *calibrated)
    for name, evaluation in rows.items():
        cells = [f"{s.mean:.3f} ± {s.se:.3f} ({s.n})" for s in evaluation.scores.values()]
        cells += [f"{evaluation.calibrated[k]:.3f}" for k in calibrated]
        table.add_row(name, *cells)
    Console().print(table)
