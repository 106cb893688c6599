"""Pictures on a page: files in; data URIs with alternative texts, within a number of bytes, out."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tune.report.gather import Trial

HERO_PX, HERO_QUALITY = 256, 85
OVERHEAD_BYTES = 320  # of an image's element beside its data
SAMPLED = 12  # images that are encoded to learn what all would take


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image that needs no file: its data URI, what it shows, the step it was drawn at."""

    src: str
    alt: str
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """A trial's images: for each prompt those of its steps, ascending."""

    trial: Trial
    cells: tuple[tuple[Picture, ...], ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Trials × prompts, over the steps that a slider goes through; what was left out, if any."""

    prompts: tuple[str, ...]
    rows: tuple[GridRow, ...]
    steps: tuple[int, ...]
    left_out: str = ""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How images are made to fit: their side, WebP quality, steps of each trial, trials."""

    px: int
    quality: int
    steps: int | None = None
    trials: int | None = None


_PLANS = (
    _Plan(px=192, quality=82),
    _Plan(px=160, quality=76),
    _Plan(px=128, quality=70),
    _Plan(px=112, quality=60),
    _Plan(px=112, quality=60, steps=3),
    _Plan(px=112, quality=60, steps=1),
    _Plan(px=112, quality=60, steps=1, trials=40),
    _Plan(px=96, quality=50, steps=1, trials=16),
    _Plan(px=64, quality=40, steps=1, trials=4),
)

Wanted = list[tuple[Trial, dict[str, list[int]]]]


def hero_picture(image: Image.Image, alt: str) -> Picture:
    """A picture for the top of the page."""
    return Picture(src=data_uri(image, HERO_PX, HERO_QUALITY), alt=alt)


def data_uri(image: Image.Image, px: int, quality: int) -> str:
    """An image of at most `px` a side as WebP in a data URI; it is never enlarged."""
    shown = image.convert("RGB")
    shown.thumbnail((px, px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_grid(trials: Sequence[Trial], prompts: Sequence[tuple[str, str]], max_bytes: int) -> Grid:
    """The images of all trials, prompts and steps, smaller or fewer until they fit."""
    for plan in _PLANS:
        wanted = _wanted(trials, prompts, plan)
        if _estimate(wanted, plan) > max_bytes:
            continue
        rows = tuple(_row(trial, steps, prompts, plan) for trial, steps in wanted)
        if sum(map(_size, rows)) <= max_bytes:
            shown = sorted({step for row in rows for step in row.steps})
            return Grid(
                prompts=tuple(prompt for _, prompt in prompts),
                rows=rows,
                steps=tuple(shown),
                left_out=_left_out(plan, trials),
            )
    return Grid(prompts=(), rows=(), steps=(), left_out="The images do not fit into the page.")


def _wanted(trials: Sequence[Trial], prompts: Sequence[tuple[str, str]], plan: _Plan) -> Wanted:
    """The steps of each prompt to show, of each trial that has images."""
    wanted = []
    for trial in [trial for trial in trials if trial.images][: plan.trials]:
        steps: dict[str, list[int]] = {key: [] for key, _ in prompts}
        for key, step in sorted(trial.images):
            steps[key].append(step)
        wanted.append((trial, {key: _thinned(found, plan.steps) for key, found in steps.items()}))
    return wanted


def _thinned(steps: list[int], num: int | None) -> list[int]:
    """At most `num` of the steps, evenly, the last one always."""
    if num is None or len(steps) <= num:
        return steps
    return sorted({steps[-1 - round(i * (len(steps) - 1) / max(num - 1, 1))] for i in range(num)})


def _estimate(wanted: Wanted, plan: _Plan) -> float:
    """The bytes of all, by a few of them."""
    paths = [
        trial.images[key, step]
        for trial, cells in wanted
        for key, steps in cells.items()
        for step in steps
    ]
    sampled = paths[:: max(len(paths) // SAMPLED, 1)]
    taken = [len(_encoded(path, plan)) + OVERHEAD_BYTES for path in sampled]
    return sum(taken) / max(len(taken), 1) * len(paths)


def _row(
    trial: Trial,
    wanted: dict[str, list[int]],
    prompts: Sequence[tuple[str, str]],
    plan: _Plan,
) -> GridRow:
    cells = tuple(
        tuple(
            Picture(
                src=_encoded(trial.images[key, step], plan),
                alt=f"Trial {trial.key} at step {step}: {prompt}",
                step=step,
            )
            for step in wanted[key]
        )
        for key, prompt in prompts
    )
    steps = sorted({step for steps in wanted.values() for step in steps})
    return GridRow(trial=trial, cells=cells, steps=tuple(steps))


def _encoded(path: Path, plan: _Plan) -> str:
    with Image.open(_small_enough(path, plan.px)) as image:
        return data_uri(image, plan.px, plan.quality)


def _small_enough(path: Path, px: int) -> Path:
    """The thumbnail that MLflow keeps beside a large image, which is decoded much faster."""
    thumbnail = path.with_name(path.name.removesuffix(".png") + "+compressed.webp")
    with Image.open(path) as image:  # only its header is read
        is_large = max(image.size) > 2 * px
    return thumbnail if is_large and thumbnail.exists() else path


def _size(row: GridRow) -> int:
    return sum(len(p.src) + OVERHEAD_BYTES for cell in row.cells for p in cell)


def _left_out(plan: _Plan, trials: Sequence[Trial]) -> str:
    said = []
    if plan.trials is not None and plan.trials < len(trials):
        said.append(f"the {plan.trials} best trials")
    if plan.steps is not None:
        said.append("the last step" if plan.steps == 1 else f"{plan.steps} steps of each trial")
    if not said:
        return ""
    return f"To keep the page below its 10 MB, only {' and '.join(said)} are shown."
