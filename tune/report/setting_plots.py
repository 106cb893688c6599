"""Plots of settings: trials in; slices of balance along each setting, and what mattered, out."""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tune.records.plots import AXES, LOG_AXES
from tune.report.gather import Trial
from tune.report.importances import importances
from tune.report.looks import FINISHED, Plot, figure, grouped, look, markers


def setting_plots(trials: Sequence[Trial], champion: Trial | None) -> list[Plot]:
    """Slices, and importances where enough trials ran to their end; none if nothing was scored."""
    scored = [trial for trial in trials if trial.balance is not None]
    return [_slices(scored, champion), *_importances(scored)] if scored else []


def _slices(trials: Sequence[Trial], champion: Trial | None) -> Plot:
    made = make_subplots(
        rows=2, cols=3, subplot_titles=list(AXES), shared_yaxes=True, vertical_spacing=0.2
    )
    for number, (name, get) in enumerate(AXES.items()):
        row, column = number // 3 + 1, number % 3 + 1
        for kind, group in grouped(trials, champion):
            trace = markers(
                kind, group, x=_values(group, get), y=[t.balance for t in group], is_labelled=False
            )
            trace.update(legendgroup=kind, showlegend=number == 0)
            made.add_trace(trace, row=row, col=column)
        made.update_xaxes(**_axis(name, [get(trial.row) for trial in trials]), row=row, col=column)
    made.update_layout(template="none", **look(height=520))
    made.update_layout(legend={"y": -0.1, "yanchor": "top"}, margin={"b": 64})
    made.update_yaxes(title_text="balance", col=1)
    return Plot(
        name="slices",
        title="Every setting by itself",
        alt=f"Six panels: balance of {len(trials)} trials over a1, a2, learning rate, steps, "
        "targets and init.",
        note="The same trials in each panel. Those that were stopped early were scored at fewer "
        "steps, so they lie lower than they might have ended.",
        figure=made,
        is_wide=True,
    )


def _axis(name: str, found: Sequence[Any]) -> dict[str, Any]:
    """An axis that names what was tried, as far as that is few values."""
    if isinstance(found[0], str):
        return {"type": "category"}
    base = LOG_AXES.get(name)
    if base == 10:
        return {"type": "log", "dtick": 1, "tickformat": ".0e"}
    ticks = sorted({float(value) for value in found})
    named = {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return {"type": "log" if base else "linear"} | named


def _importances(trials: Sequence[Trial]) -> list[Plot]:
    finished = [trial.row for trial in trials if trial.row.state == "finished"]
    found = importances(finished)
    if not found:
        return []
    ordered = sorted(found.items(), key=lambda item: item[1])
    bars = go.Bar(
        x=[share for _, share in ordered],
        y=[name for name, _ in ordered],
        orientation="h",
        marker={"color": FINISHED},
        text=[f"{share:.0%}" for _, share in ordered],
        hovertemplate="%{y}: %{x:.0%}<extra></extra>",
    )
    said = ", ".join(f"{name} {share:.0%}" for name, share in reversed(ordered))
    return [
        Plot(
            name="importances",
            title="What mattered",
            alt=f"Bars of each setting's share in the differences of balance: {said}.",
            note=f"Shares of the variance of balance over the {len(finished)} trials that ran to "
            "their end (fANOVA, Optuna). So few trials give a hint and no proof."
            if len(finished) < 50
            else f"Shares of the variance of balance over {len(finished)} trials (fANOVA, Optuna).",
            figure=figure(
                [bars],
                height=300,
                xaxis={"tickformat": ".0%", "rangemode": "tozero"},
                yaxis={"automargin": True},
            ),
            is_wide=True,
        )
    ]


def _values(group: Sequence[Trial], get: Callable[[Any], float | str]) -> list[float | str]:
    return [get(trial.row) for trial in group]
