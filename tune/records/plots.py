"""The picture that a report has no place for: rows in, parallel coordinates as a file out."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from tune.names import METRIC
from tune.records.ranking import Row

AXES: dict[str, Callable[[Row], float | str]] = {
    "a1": lambda row: row.a1,
    "a2": lambda row: row.a2,
    "learning rate": lambda row: row.learning_rate,
    "targets": lambda row: row.targets,
    "init": lambda row: row.init,
    "parameters": lambda row: row.num_params or 0,
}
LOG_AXES = {"a1": 2, "a2": 2, "learning rate": 10, "parameters": 10}  # the base of each


def parallel_coordinates(rows: Sequence[Row], path: Path) -> Path:
    """One line per scored trial across all parameters to its balance, brighter is better."""
    scored = sorted((row for row in rows if METRIC in row.scores), key=_balance)
    columns: dict[str, Callable[[Row], float | str]] = {**AXES, "balance": _balance}
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axis = figure.subplots()
    heights = {name: _heights([get(row) for row in scored]) for name, get in columns.items()}
    colours = _colours([_balance(row) for row in scored])
    for index, colour in enumerate(colours):
        axis.plot([heights[name][index] for name in columns], color=colour, alpha=0.8)
    axis.set_xticks(range(len(columns)), list(columns))
    axis.set_yticks([])
    for x, get in enumerate(columns.values()):
        for label, height in _ticks([get(row) for row in scored]):
            axis.annotate(label, (x, height), fontsize=8, ha="center", bbox={"fc": "white"})
    return _save(figure, path)


def _balance(row: Row) -> float:
    return row.scores[METRIC]  # of equal noise for all; a finalist's other one is not


def _heights(values: Sequence[float | str]) -> list[float]:
    """Where each value stands on an axis from 0 to 1: by rank among the distinct values."""
    distinct = sorted(set(values), key=_sort_key)
    span = max(len(distinct) - 1, 1)
    return [distinct.index(value) / span for value in values]


def _ticks(values: Sequence[float | str]) -> list[tuple[str, float]]:
    distinct = dict(zip(values, _heights(values), strict=True))
    ordered = sorted(distinct.items(), key=lambda item: item[1])
    shown = ordered if len(ordered) <= 8 else [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    return [(v if isinstance(v, str) else f"{v:.3g}", height) for v, height in shown]


def _sort_key(value: float | str) -> tuple[float, str]:
    return (0.0, value) if isinstance(value, str) else (value, "")


def _colours(values: Sequence[float]) -> list[tuple[float, float, float, float]]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    shade = colormaps["viridis"]
    return [shade((value - low) / ((high - low) or 1.0)) for value in values]


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
