"""Plots of the champion's factors: layers in, figures with words out."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tune.report.factors import (
    Factors,
    Layer,
    energy_shares,
    median_stable_ranks,
    relative_norms,
)
from tune.report.looks import PROJECTIONS, SEQUENTIAL, Plot, figure, look


def factor_plots(factors: Factors) -> list[Plot]:
    """Where the champion changes the base, how much, and in how many directions."""
    layers = factors.layers
    shares, ratios = energy_shares(layers), relative_norms(layers)
    most = sorted(shares.items(), key=lambda item: -item[1])[:3]
    said = ", ".join(f"{block} {projection} ({share:.0%})" for (block, projection), share in most)
    made = [
        Plot(
            name="energy",
            title="Where the change is",
            alt=f"Heat map of the update's energy by block and projection. Most: {said}.",
            note=f"Shares of ‖ΔW‖² over all adapted layers. Most of it: {said}. Cross attention "
            "(cross k, cross v) reads the prompt; self attention arranges the picture.",
            figure=_heat_map(shares, ".0%"),
        )
    ]
    if ratios:
        made.append(_ratio_plot(ratios))
    return [*made, _spectra(layers)]


def _ratio_plot(ratios: Mapping[tuple[str, str], float]) -> Plot:
    (block, projection), largest = max(ratios.items(), key=lambda item: item[1])
    return Plot(
        name="relative",
        title="How large it is: ‖ΔW‖ / ‖W‖",
        alt=f"Heat map of the update's norm relative to the frozen weights. Largest: {block} "
        f"{projection}, {largest:.3f}.",
        note=f"The update against the weights that it is added to; largest {largest:.3f} at "
        f"{block} {projection}, median {median(ratios.values()):.3f}. At 1 an update is as large "
        "as the weights themselves.",
        figure=_heat_map(ratios, ".2f"),
    )


def _heat_map(cells: Mapping[tuple[str, str], float], form: str) -> Any:
    blocks = list(dict.fromkeys(block for block, _ in cells))[::-1]
    found = {projection for _, projection in cells}
    projections = [f"{a} {p}" for a in ("self", "cross") for p in "qkvo" if f"{a} {p}" in found]
    z = [[cells.get((block, projection)) for projection in projections] for block in blocks]
    heat = go.Heatmap(
        x=projections,
        y=blocks,
        z=z,
        colorscale=SEQUENTIAL,
        texttemplate=f"%{{z:{form}}}",
        hoverongaps=False,
        xgap=2,
        ygap=2,
        showscale=False,
        hovertemplate=f"%{{y}}, %{{x}}: %{{z:{form}}}<extra></extra>",
    )
    return figure(
        [heat],
        height=120 + 30 * len(blocks),
        xaxis={"type": "category", "side": "top"},
        yaxis={"type": "category", "automargin": True},
        margin={"l": 90, "r": 16, "t": 36, "b": 16},
    )


def _spectra(layers: Sequence[Layer]) -> Plot:
    rank_a, rank_b = median_stable_ranks(layers)
    made = make_subplots(rows=1, cols=2, subplot_titles=("A", "B"), horizontal_spacing=0.09)
    for column, spectra in enumerate(
        ({x.path: x.spectrum_a for x in layers}, {x.path: x.spectrum_b for x in layers}), 1
    ):
        longest = max(map(len, spectra.values()))
        made.update_xaxes(title_text="index", dtick=max(longest // 8, 1), row=1, col=column)
        for letter, colour in PROJECTIONS.items():
            chosen = [spectra[x.path] for x in layers if x.projection.endswith(letter)]
            if chosen:
                trace = _median_spectrum(chosen, letter, colour, is_first=column == 1)
                made.add_trace(trace, row=1, col=column)
    made.update_layout(template="none", **look(height=360))
    made.update_layout(legend={"y": -0.24, "yanchor": "top"}, margin={"b": 84})
    made.update_yaxes(title_text="σ / σ₁", col=1)
    made.update_yaxes(rangemode="tozero")
    full_a, full_b = (
        max(map(len, s)) for s in zip(*((x.spectrum_a, x.spectrum_b) for x in layers), strict=True)
    )
    return Plot(
        name="spectra",
        title="Spectra of A and B",
        alt="Lines of the singular values of A and of B, relative to the largest, by projection. "
        f"Median stable rank {rank_a:.1f} of {full_a} and {rank_b:.1f} of {full_b}.",
        note="Singular values relative to the largest, the median over the layers of a projection. "
        f"Stable rank (‖·‖²/σ₁²), median: A {rank_a:.1f} of {full_a}, B {rank_b:.1f} of {full_b}. "
        "A line that falls at once means that few directions do the work, and that a smaller "
        "factor may do as well.",
        figure=made,
        is_wide=True,
    )


def _median_spectrum(
    spectra: Sequence[Sequence[float]], letter: str, colour: str, *, is_first: bool
) -> Any:
    relative = [[s / (values[0] or 1.0) for s in values] for values in spectra]
    length = max(map(len, relative))
    middle = [median(v[i] for v in relative if i < len(v)) for i in range(length)]
    return go.Scatter(
        x=list(range(1, length + 1)),
        y=[round(value, 4) for value in middle],
        mode="lines+markers" if length <= 32 else "lines",
        name=letter,
        legendgroup=letter,
        showlegend=is_first,
        line={"color": colour},
        hovertemplate=f"{letter}: σ%{{x}} is %{{y:.2f}} of σ₁<extra></extra>",
    )
