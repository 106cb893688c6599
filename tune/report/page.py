"""The page: a sweep in MLflow in; one HTML file that needs nothing else out."""

import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from krona.errors import KronaError
from krona.storage.atomic import write_atomically
from tune.names import PastSweep
from tune.records.table import balance_text
from tune.records.tracking import Tracker
from tune.report.answer import counts, make_answer, number
from tune.report.factor_plots import factor_plots
from tune.report.factors import Factors, read_factors
from tune.report.gather import Findings, Trial, gather
from tune.report.looks import Plot, describe
from tune.report.pictures import Picture, hero_picture, make_grid
from tune.report.repeat import make_repeat
from tune.report.score_plots import score_plots
from tune.report.setting_plots import setting_plots
from tune.report.time_plot import timeline_plot
from tune.report.timeline import ACTIVITIES, Timeline, make_timeline

MAX_BYTES = 10_000_000
RESERVED_BYTES = 250_000  # of the page itself: its tables, failures, style and script
MOST_IN_HERO = 8
MOST_FAILURE = 20_000  # characters of one failure's text
_HERE = "tune.report"


def write_report(tracker: Tracker, sweep: PastSweep, output: Path) -> Path:
    """Write the report of a sweep; `output` appears whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:
        html = render(gather(tracker, sweep, Path(scratch)))
    write_atomically(output, html.encode())
    return output


def render(findings: Findings) -> str:
    """The page of what was found, at most MAX_BYTES in UTF-8."""
    factors, no_factors = _factors(findings)
    plots = _plots(findings, factors)
    photos, heroes = _photos(findings), _heroes(findings)
    timeline = make_timeline(findings.facts, findings.trials)
    scripts = get_plotlyjs()
    shown = [*photos, *(picture for _, row in heroes for picture in row)]
    taken = len(scripts.encode()) + sum(len(picture.src) for picture in shown)
    taken += sum(len(_figure(plot)) for group in plots.values() for plot in group)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            findings=findings,
            base=_base(findings),
            answer=make_answer(findings),
            counts=counts(findings),
            photos=photos,
            heroes=heroes,
            hero_prompts=[prompt for _, prompt in findings.prompts[:MOST_IN_HERO]],
            grid=make_grid(findings.trials, findings.prompts, MAX_BYTES - RESERVED_BYTES - taken),
            plots=plots,
            no_factors=no_factors,
            shares=_shares(timeline),
            pruned=[trial for trial in findings.trials if trial.row.state == "pruned"],
            failures=[t for t in findings.trials if t.failure or t.row.state == "failed"],
            repeat=make_repeat(findings, findings.champion) if findings.champion else None,
            plotly=Markup(scripts),
            style=Markup(_text("report.css")),
            script=Markup(_text("report.js")),
        )
    )


def _plots(findings: Findings, factors: Factors | None) -> dict[str, list[Plot]]:
    """Figures by the section that they stand in."""
    trials = findings.trials
    timeline = make_timeline(findings.facts, trials)
    scores = score_plots(trials, findings.champion)
    settings = setting_plots(trials, findings.champion)
    return {
        "scores": scores,
        "settings": settings,
        "timeline": [timeline_plot(timeline)] if timeline.stays else [],
        "factors": factor_plots(factors) if factors else [],
    }


def _factors(findings: Findings) -> tuple[Factors | None, str]:
    """The champion's factors; what is missing of them and why, in words."""
    if findings.champion is None:
        return None, "There is no champion to take apart."
    if findings.adapter is None:
        return None, "The champion's adapter file is not in MLflow."
    try:
        factors = read_factors(findings.adapter)
    except KronaError as error:
        return None, f"The adapter cannot be taken apart: {error}"
    if factors.without_base:
        return factors, f"‖ΔW‖ / ‖W‖ is left out: {factors.without_base}."
    return factors, ""


def _base(findings: Findings) -> str:
    """The checkpoint's name; of a path its last part says enough at the top."""
    return Path(findings.facts.params.get("base", "an unrecorded base")).name


def _photos(findings: Findings) -> list[Picture]:
    return [
        hero_picture(image, f"Photo {number} of {findings.sweep.subject}")
        for number, image in enumerate(findings.photos, 1)
    ]


def _heroes(findings: Findings) -> list[tuple[str, list[Picture]]]:
    """The rows at the top: the base and the champion under the same prompts."""
    prompts, champion = findings.prompts[:MOST_IN_HERO], findings.champion
    base = [
        hero_picture(image, f"The base without adapter: {prompt}")
        for (_, prompt), image in zip(prompts, findings.base_images, strict=False)
    ]
    rows = [("Base, no adapter", base)]
    if champion is not None:
        rows.append((f"Trial {champion.key}", _champion_pictures(champion, prompts)))
    return [row for row in rows if row[1]]


def _champion_pictures(champion: Trial, prompts: Sequence[tuple[str, str]]) -> list[Picture]:
    """The images that its kept adapter was scored by."""
    made = []
    for key, prompt in prompts:
        path = champion.images.get((key, champion.scored_at or 0))
        if path is not None:
            with Image.open(path) as image:
                made.append(hero_picture(image, f"The champion, trial {champion.key}: {prompt}"))
    return made


def _shares(timeline: Timeline) -> list[tuple[str, str]]:
    """Where the time went, in words."""
    spent = {activity: timeline.total_s(activity) for activity in ACTIVITIES}
    busy = sum(spent.values())
    shares: list[tuple[str, str]] = [
        ("from start to end", _clock(timeline.length_s)),
        ("until the first trial began", _clock(timeline.opening_s)),
        ("trials at the same time", f"at most {timeline.num_at_once}"),
    ]
    return shares + [
        (activity, f"{_clock(seconds)} ({seconds / busy:.0%} of the trials' time)")
        for activity, seconds in spent.items()
        if seconds
    ]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_HERE, package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure, number=number, balance=balance_text, describe=describe, shortened=_shortened
    )
    return environment


def _figure(plot: Plot) -> Markup:
    """A figure as JSON that cannot end the script element it stands in."""
    return Markup(plot.figure.to_json().replace("<", "\\u003c"))


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_FAILURE else f"…{text[-MOST_FAILURE:]}"


def _text(name: str) -> str:
    return (resources.files(_HERE) / name).read_text(encoding="utf-8")
