"""What a report tells of: a sweep in MLflow in; its trials, champion and pictures out."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from evals.sheet import sheet_row
from krona.errors import KronaError
from krona.exchange.adapter_file import Manifest, load_adapter
from krona.exchange.origin import Origin
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from tune.names import (
    BEST,
    BEST_STEP,
    METRIC,
    PRUNED_TAG,
    SLOT,
    SPENT,
    PastSweep,
    Point,
    RunFacts,
    TrialRun,
    image_key,
    images_by_step,
)
from tune.records.ranking import Row, best, rank
from tune.records.tracking import Tracker

CURVES = (METRIC, "subject", "prompt", "fixed_loss", SLOT, *SPENT)
MOST_PHOTOS = 6


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial: its row, its curves by step, its times, images by (key, step), its failure."""

    row: Row
    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[Point, ...]]
    facts: RunFacts
    images: Mapping[tuple[str, int], Path]
    failure: str | None = None

    @property
    def key(self) -> str:
        """Its number in the sweep."""
        return self.row.key

    @property
    def scored_at(self) -> int | None:
        """The step of the adapter that is kept: the best evaluation's, or else the last one's."""
        if BEST_STEP in self.metrics:
            return int(self.metrics[BEST_STEP])
        return self.curves[METRIC][-1].step if self.curves.get(METRIC) else None

    @property
    def balance(self) -> float | None:
        """What that adapter scored."""
        return self.metrics.get(BEST, self.row.balance)

    @property
    def last_step(self) -> int:
        """The last step that it reported."""
        return max((curve[-1].step for curve in self.curves.values() if curve), default=0)

    @property
    def pruned_for(self) -> str:
        """What it was compared with when the search stopped it."""
        return self.facts.tags.get(PRUNED_TAG, "it was not in the better half")

    def shown(self, name: str) -> float | None:
        """A score over a finalist's images of other noise, or else of the best evaluation."""
        return self.row.confirmed.get(name, self.at_score(name))

    def at_score(self, name: str) -> float | None:
        """A curve's value at the step of `balance`."""
        found = [p.value for p in self.curves.get(name, ()) if p.step == self.scored_at]
        return found[0] if found else None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that is known of a sweep; trials are ranked, the champion is one of them."""

    sweep: PastSweep
    uri: str
    facts: RunFacts
    trials: tuple[Trial, ...]
    champion: Trial | None
    adapter: Path | None
    manifest: Manifest | None
    space: Mapping[str, Any]
    photos: tuple[Image.Image, ...]
    base_images: tuple[Image.Image, ...]
    prompts: tuple[tuple[str, str], ...]
    """(key, prompt) in the order in which they were asked."""


def gather(tracker: Tracker, sweep: PastSweep, scratch: Path) -> Findings:
    """Read all that MLflow holds of a sweep; `scratch` must outlive what is returned."""
    known = {trial.run_id: trial for trial in tracker.trials(sweep.run_id)}
    rows = rank(tracker, sweep.run_id)
    champion = best(rows)
    trials = tuple(_trial(tracker, row, known[row.run_id], scratch) for row in rows)
    adapter = (
        tracker.fetch(champion.run_id, "adapter/adapter.safetensors", scratch) if champion else None
    )
    manifest = _manifest(adapter)
    facts = tracker.facts(sweep.run_id)
    prompts = _prompts(manifest, trials)
    sheet = _open(tracker.fetch(sweep.run_id, "contact_sheet.png", scratch))
    return Findings(
        sweep=sweep,
        uri=tracker.uri,
        facts=facts,
        trials=trials,
        champion=next((trial for trial in trials if trial.row == champion), None),
        adapter=adapter,
        manifest=manifest,
        space=_json(tracker.fetch(sweep.run_id, "search_space.json", scratch)),
        photos=tuple(_photos(sweep.subject, facts.params, sheet)),
        base_images=() if sheet is None else tuple(sheet_row(sheet, 1, len(prompts))),
        prompts=prompts,
    )


def _trial(tracker: Tracker, row: Row, run: TrialRun, scratch: Path) -> Trial:
    curves = {
        name: tracker.curve(row.run_id, name)
        for name in CURVES
        if name in run.metrics or name == METRIC
    }
    folder = tracker.fetch(row.run_id, "images", scratch) if curves[METRIC] else None
    paths = [str(path) for path in folder.iterdir()] if folder else []
    failure = tracker.fetch(row.run_id, "failure.txt", scratch) if row.failure else None
    return Trial(
        row=row,
        metrics=run.metrics,
        curves=curves,
        facts=tracker.facts(row.run_id),
        images={at: Path(path) for at, path in images_by_step(paths).items()},
        failure=failure.read_text(errors="replace") if failure else row.failure,
    )


def _manifest(adapter: Path | None) -> Manifest | None:
    """What the champion's file says of itself; the report stands also where it cannot be read."""
    try:
        return load_adapter(adapter)[1] if adapter else None
    except KronaError:
        return None


def _prompts(manifest: Manifest | None, trials: tuple[Trial, ...]) -> tuple[tuple[str, str], ...]:
    """The prompts of the sweep; without a manifest, what their keys still tell."""
    keys = sorted({key for trial in trials for key, _ in trial.images})
    asked = dict.fromkeys(Origin.of(manifest).prompts if manifest else ())
    known = {image_key(prompt): prompt for prompt in asked}
    ordered = [key for key in known if key in keys] + [key for key in keys if key not in known]
    return tuple((key, known.get(key, key.replace("_", " "))) for key in ordered)


def _photos(
    subject: str, params: Mapping[str, str], sheet: Image.Image | None
) -> list[Image.Image]:
    """The subject's photos from their folder, or, where that is elsewhere, from the sheet."""
    folder = params.get("photos", "None")
    noun = params.get("class_noun", "None")
    try:
        found = load_subject(
            subject,
            photos=None if folder == "None" else Path(folder),
            class_noun=None if noun == "None" else noun,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sweep has said what is wrong with a photo
            photos = load_photos(found.photos_dir, resolution=256)
    except (KronaError, OSError):
        return [] if sheet is None else sheet_row(sheet, 0, MOST_PHOTOS)
    shown = ((photos.pixels[:MOST_PHOTOS] + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(pixels.numpy()) for pixels in shown]


def _open(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    with Image.open(path) as file:
        return file.convert("RGB")


def _json(path: Path | None) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path else {}
    return content
