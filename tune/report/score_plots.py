"""Plots of scores: trials in; curves, subject against prompt, balance against size out."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tune.names import METRIC
from tune.report.gather import Trial
from tune.report.looks import CHAMPION, COLOURS, Plot, figure, grouped, hover, look, markers

SCORE_AXES = (METRIC, "subject", "prompt")
ISO_BALANCES = (0.2, 0.4, 0.6, 0.8)


def score_plots(trials: Sequence[Trial], champion: Trial | None) -> list[Plot]:
    """All plots of scores; none where nothing was scored."""
    scored = [trial for trial in trials if trial.balance is not None]
    if not scored:
        return []
    return [_curves(scored, champion), _trade_off(scored, champion), _front(scored, champion)]


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Those that no smaller or equal adapter beats, by rising size; finished trials only."""
    sized = [t for t in trials if t.row.num_params and t.row.state == "finished"]
    front: list[Trial] = []
    for trial in sorted(sized, key=lambda t: (t.row.num_params or 0, -(t.balance or 0.0))):
        if not front or (trial.balance or 0.0) > (front[-1].balance or 0.0):
            front.append(trial)
    return front


def _curves(trials: Sequence[Trial], champion: Trial | None) -> Plot:
    made = make_subplots(rows=1, cols=3, subplot_titles=SCORE_AXES, horizontal_spacing=0.05)
    for kind, group in grouped(trials, champion):
        for column, name in enumerate(SCORE_AXES, 1):
            for number, trial in enumerate(group):
                trace = _curve(trial, name, kind, is_first=number == 0 and column == 1)
                made.add_trace(trace, row=1, col=column)
    made.update_layout(template="none", **look(height=360))
    made.update_layout(legend={"y": -0.24, "yanchor": "top"}, margin={"b": 84})
    made.update_xaxes(title_text="step")
    steps = max(trial.last_step for trial in trials)
    best = "" if champion is None else _curve_said(champion)
    return Plot(
        name="curves",
        title="Score curves",
        alt=f"Lines of balance, subject and prompt over up to {steps} steps, one for each of "
        f"{len(trials)} trials. {best}",
        note="Each line is a trial, scored at its evaluations; where a grey one ends, it was "
        "stopped. Click a name in the legend to hide its lines.",
        figure=made,
        is_wide=True,
    )


def _curve(trial: Trial, name: str, kind: str, *, is_first: bool) -> Any:
    curve = trial.curves.get(name, ())
    is_marked = kind in ("champion", "paper's default")
    return go.Scatter(
        x=[point.step for point in curve],
        y=[round(point.value, 4) for point in curve],
        mode="lines+markers",
        name=kind,
        legendgroup=kind,
        showlegend=is_first,
        opacity=1.0 if is_marked else 0.6,
        line={"color": COLOURS[kind], "width": 3 if is_marked else 1.5},
        marker={"size": 7 if is_marked else 4},
        hovertemplate=f"%{{y:.3f}} at step %{{x}}<br>{hover(trial)}<extra></extra>",
    )


def _curve_said(champion: Trial) -> str:
    values = [f"{point.value:.2f} at step {point.step}" for point in champion.curves[METRIC]]
    return f"The champion's balance: {', '.join(values)}."


def _trade_off(trials: Sequence[Trial], champion: Trial | None) -> Plot:
    lines = [_iso_line(level) for level in ISO_BALANCES]
    points = [
        markers(
            kind,
            group,
            x=[trial.at_score("subject") for trial in group],
            y=[trial.at_score("prompt") for trial in group],
        )
        for kind, group in grouped(trials, champion)
    ]
    found = "" if champion is None else f" The champion is at {_place(champion)}."
    return Plot(
        name="trade-off",
        title="Subject against prompt",
        alt=f"Scatter of subject against prompt scores of {len(trials)} trials, over lines of "
        f"equal balance.{found}",
        note="Right is more like the subject, up is more obedient to the prompt; dotted lines join "
        "equal balance. An adapter that learned nothing is at the upper left, one that copies a "
        "photo at the lower right.",
        figure=figure(
            lines + points, xaxis={"title": "subject"}, yaxis={"title": "prompt"}, height=420
        ),
    )


def _place(trial: Trial) -> str:
    return f"{_said(trial.at_score('subject'))}, {_said(trial.at_score('prompt'))}"


def _iso_line(level: float) -> Any:
    """Where the harmonic mean of subject s and prompt p is `level`: p = level·s / (2s − level)."""
    shares = [level / 2 + 0.005 + i * (1.0 - level / 2) / 60 for i in range(61)]
    at = [(s, level * s / (2 * s - level)) for s in shares]
    inside = [(s, p) for s, p in at if p <= 1.05 and s <= 1.0]
    return go.Scatter(
        x=[round(s, 4) for s, _ in inside],
        y=[round(p, 4) for _, p in inside],
        mode="lines+text",
        text=[f"{level:g}" if i == len(inside) - 1 else "" for i in range(len(inside))],
        textposition="middle right",
        line={"color": "rgba(139,149,165,0.6)", "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )


def _front(trials: Sequence[Trial], champion: Trial | None) -> Plot:
    front = pareto_front(trials)
    sized = [trial for trial in trials if trial.row.num_params]
    points = [
        markers(
            kind,
            group,
            x=[trial.row.num_params for trial in group],
            y=[trial.balance for trial in group],
        )
        for kind, group in grouped(sized, champion)
    ]
    line = go.Scatter(
        x=[trial.row.num_params for trial in front],
        y=[trial.balance for trial in front],
        mode="lines",
        name="front",
        line={"color": CHAMPION, "width": 2, "shape": "hv", "dash": "dash"},
        hoverinfo="skip",
    )
    named = ", ".join(f"{t.key} ({t.row.num_params:,}: {_said(t.balance)})" for t in front)
    return Plot(
        name="front",
        title="Balance against size",
        alt=f"Scatter of balance against the number of parameters. Pareto front: trials {named}.",
        note="The dashed line is the Pareto front: no smaller adapter that ran to its end is as "
        f"good. On it, smallest first: {named or 'none'}.",
        figure=figure(
            [line, *points],
            xaxis={"title": "parameters", "type": "log", "dtick": 1},
            yaxis={"title": "balance"},
            height=420,
        ),
    )


def _said(value: float | None) -> str:
    return "unknown" if value is None or not math.isfinite(value) else f"{value:.3f}"
