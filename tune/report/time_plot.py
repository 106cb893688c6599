"""The plot of a sweep's time: its timeline in, a figure with words out."""

from html import escape
from textwrap import shorten
from typing import Any

import plotly.graph_objects as go

from tune.report.gather import Trial
from tune.report.looks import CHAMPION, FAILED, FINISHED, Plot, figure, hover
from tune.report.timeline import ACTIVITIES, Activity, Stay, Timeline

COLOURS: dict[Activity, str] = {
    "training": CHAMPION,
    "scoring": FINISHED,
    "waiting": "rgba(139,149,165,0.55)",
    "not recorded": "rgba(139,149,165,0.85)",
}
LANE_PX = 30
MOST_SAID = 160  # characters of a reason under the pointer
STOPPED = {"pruned": "x", "failed": "triangle-left"}


def timeline_plot(timeline: Timeline) -> Plot:
    """A lane for each slot, or place in one; on it its trials, coloured by what they did."""
    num_trials, lanes = len({stay.trial.key for stay in timeline.stays}), timeline.lanes
    spans = [_spans(timeline, activity, colour) for activity, colour in COLOURS.items()]
    ends = [_ends(timeline, state, symbol) for state, symbol in STOPPED.items()]
    return Plot(
        name="timeline",
        title="Timeline",
        alt=f"{num_trials} trials on {len(lanes)} lanes over {timeline.length_s:.0f} seconds, at "
        f"most {timeline.num_at_once} at the same time, split into training, scoring and waiting.",
        note="A slot has as many lanes as it had trials at once. Where several train or are "
        "scored together, all of that time is each one's. Waiting is the rest: preparing, the "
        "store, the search's verdict, other trials. A mark says where a trial was pruned or "
        "failed; under the pointer it says why.",
        figure=figure(
            [*filter(None, spans), _outlines(timeline), *filter(None, ends)],
            height=110 + LANE_PX * len(lanes),
            barmode="overlay",
            xaxis={"title": "minutes since the sweep began", "rangemode": "tozero"},
            yaxis={
                "categoryorder": "array",
                "categoryarray": lanes[::-1],
                "type": "category",
                "automargin": True,
            },
        ),
        is_wide=True,
    )


def _spans(timeline: Timeline, activity: Activity, colour: str) -> Any:
    """The bars of an activity; nothing if there was none."""
    spans = [(stay, s) for stay in timeline.stays for s in stay.spans if s.activity == activity]
    return spans and go.Bar(
        y=[stay.lane for stay, _ in spans],
        base=[_minutes(span.start_s) for _, span in spans],
        x=[_minutes(span.end_s - span.start_s) for _, span in spans],
        orientation="h",
        name=activity,
        marker={"color": colour, "line": {"width": 0}},
        hoverinfo="skip",
    )


def _outlines(timeline: Timeline) -> Any:
    """A frame around each stay, with its trial's number in it and the rest under the pointer."""
    stays = timeline.stays
    return go.Bar(
        y=[stay.lane for stay in stays],
        base=[_minutes(stay.start_s) for stay in stays],
        x=[_minutes(stay.end_s - stay.start_s) for stay in stays],
        orientation="h",
        text=[stay.trial.key for stay in stays],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        textfont={"color": "#fff"},
        customdata=[_said(stay) for stay in stays],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
        marker={"color": "rgba(0,0,0,0)", "line": {"color": "#fff", "width": 2}},
    )


def _ends(timeline: Timeline, state: str, symbol: str) -> Any:
    """Marks where trials ended in this state; nothing if none did."""
    stays = [s for s in timeline.stays if s.is_last and s.trial.row.state == state]
    return stays and go.Scatter(
        x=[_minutes(stay.end_s) for stay in stays],
        y=[stay.lane for stay in stays],
        mode="markers",
        name=state,
        customdata=[_said(stay) for stay in stays],
        hovertemplate="%{customdata}<extra></extra>",
        marker={"color": FAILED, "symbol": symbol, "size": 10},
        cliponaxis=False,
    )


def _said(stay: Stay) -> str:
    """What is said of a stay under the pointer: the trial, its times there, why it was stopped."""
    times = ((activity, stay.total_s(activity)) for activity in ACTIVITIES)
    spent = ", ".join(f"{seconds:.1f} s {activity}" for activity, seconds in times if seconds)
    lines = [hover(stay.trial), spent, *([_why(stay.trial)] if stay.is_last else [])]
    return "<br>".join(filter(None, lines))


def _why(trial: Trial) -> str:
    """Where a trial was stopped and why; nothing if it was not."""
    reasons = {"pruned": trial.pruned_for, "failed": trial.row.failure}
    if trial.row.state not in reasons:
        return ""
    reason = shorten(reasons[trial.row.state] or "no reason", MOST_SAID, placeholder="…")
    return f"{trial.row.state} at step {trial.last_step}: {escape(reason)}"


def _minutes(seconds: float) -> float:
    return round(seconds / 60, 4)
