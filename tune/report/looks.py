"""How every plot looks: traces in, a Plotly figure that a page can colour by its theme out.

Text, grid and background get their colours on the page, which may be dark or printed; those of
traces are of middle lightness, to be seen on both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from tune.report.gather import Trial

CHAMPION, FINISHED, PRUNED, FAILED, DEFAULT = "#e8590c", "#3b82d9", "#8b95a5", "#d6336c", "#2f9e6e"
PROJECTIONS = {"q": "#3b82d9", "k": "#2f9e6e", "v": "#e8590c", "o": "#9b5de5"}
SEQUENTIAL = [[0, "#fdf3ec"], [0.5, "#f7a46b"], [1, "#d9480f"]]
MARGIN = {"l": 56, "r": 16, "t": 28, "b": 48}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure with its words: a title, what it says in one sentence, how to read it."""

    name: str
    title: str
    alt: str
    note: str
    figure: Any
    is_wide: bool = False


def figure(traces: list[Any], *, height: int = 360, **layout: Any) -> Any:
    """A figure of traces, without Plotly's template, which every figure would carry along."""
    made = go.Figure(traces)
    made.update_layout(template="none", **look(height=height, **layout))
    return made


def look(*, height: int, **layout: Any) -> dict[str, Any]:
    """The layout that all figures share."""
    shared: dict[str, Any] = {
        "height": height,
        "margin": MARGIN,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    return shared | layout


def kind_of(trial: Trial, champion: Trial | None) -> str:
    """The group that a trial is drawn in."""
    if champion is not None and trial.key == champion.key:
        return "champion"
    if trial.row.is_paper_default:
        return "paper's default"
    return "finished" if trial.row.state == "finished" else "stopped early"


COLOURS: Mapping[str, str] = {
    "stopped early": PRUNED,
    "finished": FINISHED,
    "paper's default": DEFAULT,
    "champion": CHAMPION,
}
"""By group, in the order in which they are drawn: the champion lies on top."""


def describe(trial: Trial) -> str:
    """A trial's settings on one line."""
    row = trial.row
    return (
        f"({row.a1}, {row.a2}) · lr {row.learning_rate:.1e} · {row.steps} steps · "
        f"{row.targets} · {row.init}"
    )


def hover(trial: Trial) -> str:
    """What is said of a trial under the pointer."""
    score = "no score" if trial.balance is None else f"balance {trial.balance:.3f}"
    return f"trial {trial.key} ({trial.row.state})<br>{describe(trial)}<br>{score}"


def markers(kind: str, group: Sequence[Trial], *, x: Any, y: Any, is_labelled: bool = True) -> Any:
    is_hollow = kind == "stopped early"
    return go.Scatter(
        x=x,
        y=y,
        mode="markers+text" if is_labelled and not is_hollow else "markers",
        name=kind,
        text=[trial.key for trial in group] if is_labelled else None,
        textposition="top center",
        textfont={"size": 10},
        customdata=[hover(trial) for trial in group],
        hovertemplate="%{customdata}<extra></extra>",
        marker={
            "color": COLOURS[kind],
            "size": 13 if kind == "champion" else 9,
            "symbol": ("star" if kind == "paper's default" else "circle") + "-open" * is_hollow,
            "line": {"width": 1.5 if is_hollow else 0},
        },
    )


def grouped(trials: Sequence[Trial], champion: Trial | None) -> list[tuple[str, list[Trial]]]:
    groups: dict[str, list[Trial]] = {kind: [] for kind in COLOURS}
    for trial in trials:
        groups[kind_of(trial, champion)].append(trial)
    return [(kind, group) for kind, group in groups.items() if group]
