"""The report's page: what stands on it, that it needs nothing else, and that it takes anything."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sweeps import Told, picture, record

from krona.errors import KronaError
from tune.commands.report import report
from tune.names import PastSweep
from tune.records.tracking import Tracker
from tune.report.gather import gather
from tune.report.page import MAX_BYTES, render, write_report

FAILURE = "RuntimeError: </script><script>alert('no')</script> & <b>worse</b>"
WHY = "best balance 0.050 below 0.305, the median at step 25 of the 2 before it"
LOADS = {"src", "href", "srcset", "action", "data", "poster"}


class Page(HTMLParser):
    """A parsed page: its elements, and its text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._said: list[str] = []
        self._inside: list[str] = []
        self.feed(html)
        self.text = " ".join("".join(self._said).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)
        self._said.append(" ")

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._inside):
            self._said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def read(tracker: Tracker, sweep: PastSweep, folder: Path) -> tuple[str, Page]:
    path = write_report(tracker, sweep, folder / f"{sweep.name}.html")
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def sweep(tracker, store) -> PastSweep:
    trials = [
        Told(curve={25: 0.3, 50: 0.5, 100: 0.61}, settings={"a1": 4, "a2": 16}, num_params=900),
        Told(curve={25: 0.31, 50: 0.52, 75: 0.55}, settings={"steps": 75, "learning_rate": 0.01}),
        Told(curve={25: 0.05}, state="pruned", pruned=WHY, settings={"learning_rate": 1e-4}),
        Told(curve={25: 0.2, 50: 0.4}, settings={"steps": 50, "targets": "kv"}, num_params=2000),
        Told(state="failed", failure=f"Traceback\n{FAILURE}"),
        Told(curve={25: 0.01, 50: 0.02, 100: 0.11}),
    ]
    return record(tracker, store, "whole", trials)


@pytest.fixture(scope="module")
def page(tracker, sweep, store) -> tuple[str, Page]:
    return read(tracker, sweep, store)


def test_nothing_is_loaded_from_anywhere(page):
    _, parsed = page
    assert parsed.all("link") == []
    assert [script for script in parsed.all("script") if "src" in script] == []
    loaded = [
        value
        for _, attrs in parsed.elements
        for name, value in attrs.items()
        if name in LOADS and value and not value.startswith(("data:image/webp;base64,", "#"))
    ]
    assert loaded == []
    (policy,) = [m["content"] for m in parsed.all("meta") if m.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    style = page[0].partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_answer_says_which_how_good_how_sure_and_what_next(page, tracker, sweep):
    _, parsed = page
    champion = tracker.trials(sweep.run_id)[0]
    assert "Take trial 000" in parsed.text
    assert "Balance 0.610" in parsed.text
    assert "A single look at 2 images: no interval." in parsed.text
    assert "Next is trial 001, 0.060 behind" in parsed.text
    assert "The paper's default had 0.110 after 100 steps (trial 005)." in parsed.text
    assert f"krona export {champion.run_id} --format kohya" in parsed.text


def test_every_section_is_there_with_its_numbers(page):
    html, parsed = page
    ids = {attrs["id"] for _, attrs in parsed.elements if "id" in attrs}
    sections = {"answer", "images", "trials", "scores", "settings", "time", "failures", "factors"}
    plots = {"curves", "trade-off", "front", "slices", "importances", "timeline", "energy"}
    assert sections | plots | {"repeat", "spectra", "step"} <= ids
    assert "6 trials: 4 finished, 1 pruned, 1 failed" in parsed.text
    assert f"25 of 100 0.050 {WHY}" in parsed.text
    assert "On it, smallest first: 001 (712: 0.550), 000 (900: 0.610)." in parsed.text
    assert "Stable rank (‖·‖²/σ₁²), median: A 1.0 of 1, B 2.0 of 2." in parsed.text
    assert "‖ΔW‖ / ‖W‖ is left out: checkpoint 'toyland' is not the one" in parsed.text
    assert "relative" not in ids
    assert html.count('type="application/json"') == len(plots) + 1


def test_the_timeline_has_a_lane_for_the_slot_and_marks_what_was_stopped(page):
    html, _ = page
    drawn = html.partition('id="timeline"')[2].partition("</script>")[0]
    figure = json.loads(drawn.partition('"application/json">')[2])
    assert figure["layout"]["yaxis"]["categoryarray"][-1] == "slot 0, node-a"
    traces = {trace.get("name"): trace for trace in figure["data"]}
    (pruned,), (failed,) = traces["pruned"]["customdata"], traces["failed"]["customdata"]
    assert pruned.startswith("trial 002 (pruned)")
    assert pruned.endswith(f"pruned at step 25: {WHY}")
    assert failed.endswith("&lt;b&gt;worse&lt;/b&gt;")


def test_the_grid_has_each_trials_images_at_each_of_its_steps(page):
    _, parsed = page
    grid = [image for image in parsed.all("img") if "data-step" in image]
    assert len(grid) == 2 * (3 + 3 + 1 + 2 + 3)
    shown = [image["alt"] for image in grid if "hidden" not in image]
    assert len(shown) == 2 * 5
    assert "Trial 002 at step 25: a sks bird in the jungle" in shown
    (slider,) = parsed.all("input")
    assert slider["data-steps"] == "25 50 75 100"


def test_every_picture_and_plot_says_what_it_shows(page):
    _, parsed = page
    images = parsed.all("img")
    assert [image for image in images if not image.get("alt")] == []
    alts = {image["alt"] for image in images}
    assert {
        "Photo 1 of duck",
        "The base without adapter: a red sks bird",
        "The champion, trial 000: a red sks bird",
    } <= alts
    plots = [div for div in parsed.all("div") if div.get("class") == "plot"]
    assert [div for div in plots if div.get("role") != "img" or not div.get("aria-label")] == []


def test_a_failures_text_is_shown_and_does_nothing(page):
    html, parsed = page
    assert FAILURE in parsed.text
    assert "alert('no')</script>" not in html
    assert "<b>worse" not in html


def test_hostile_names_and_prompts_stay_text(tracker, store):
    hostile = "<img src=x onerror=alert(1)>"
    sweep = record(
        tracker,
        store,
        "hostile",
        [Told(curve={50: 0.4}, settings={"init": "</script><script>alert(2)"})],
        prompts=("a {} " + hostile, "a red {}"),
    )
    html, parsed = read(tracker, sweep, store)
    assert f"a sks bird {hostile}" in parsed.text
    assert hostile not in html
    assert "<script>alert(2)" not in html


def test_a_confirmed_score_has_its_interval_and_a_lead_within_the_noise_is_told(tracker, store):
    confirmed = {"confirmed_half_width": 0.03, "confirmed_images": 96}
    behind = {"behind_champion": 0.04, "behind_champion_half_width": 0.05}
    trials = [
        Told(curve={100: 0.7}, metrics={"confirmed_balance": 0.58, **confirmed, **behind}),
        Told(curve={100: 0.6}, metrics={"confirmed_balance": 0.62, **confirmed}),
        Told(curve={100: 0.65}),
    ]
    _, parsed = read(tracker, record(tracker, store, "confirmed", trials), store)
    assert "Balance 0.620 ± 0.030" in parsed.text
    assert "Take trial 001" in parsed.text
    said = "Measured again over 96 images of other noise: between 0.590 and 0.650 (95 %)."
    assert said in parsed.text
    assert "Next is trial 000, 0.040 ± 0.050 behind on the same noise: either may be" in parsed.text
    assert "A single look" not in parsed.text


def test_the_best_evaluation_is_what_is_told_where_it_is_what_was_kept(tracker, store):
    kept = Told(curve={50: 0.8, 100: 0.6}, metrics={"best_balance": 0.8, "best_step": 50})
    _, parsed = read(tracker, record(tracker, store, "kept", [kept]), store)
    assert "Balance 0.800 Subject 0.900 Prompt 0.700" in parsed.text
    assert "No other trial ran to its end" in parsed.text
    assert "It is the paper's default" in parsed.text


def test_where_all_failed_the_first_reason_is_the_answer(tracker, store):
    trials = [Told(state="failed", failure="no memory"), Told(state="failed", failure="none")]
    _, parsed = read(tracker, record(tracker, store, "failed", trials), store)
    assert "No adapter to take yet" in parsed.text
    assert "The first failure, of trial 000: no memory" in parsed.text
    assert "krona sweep --resume --name failed" in parsed.text


def test_a_sweep_that_has_just_begun_has_a_page(tracker, store):
    _, parsed = read(tracker, record(tracker, store, "begun", []), store)
    assert "No adapter to take yet" in parsed.text
    assert "No trial has been recorded yet." in parsed.text


@pytest.mark.parametrize("px", [64, 512])
def test_a_usual_sweep_stays_within_ten_megabytes(tracker, sweep, tmp_path, px):
    steps, keys = (25, 50, 75, 100), [f"prompt_{number}" for number in range(8)]
    for step in steps:
        picture(1, step, px).save(tmp_path / f"{step}.png")
    images = {(key, step): tmp_path / f"{step}.png" for key in keys for step in steps}
    found = gather(tracker, sweep, tmp_path)
    assert found.champion is not None
    trials = (replace(found.champion, images=images),) * 16
    prompts = tuple((key, key) for key in keys)
    html = render(replace(found, trials=trials, champion=trials[0], prompts=prompts))
    assert len(html.encode()) <= MAX_BYTES
    assert len([i for i in Page(html).all("img") if "data-step" in i]) == 16 * 4 * 8
    assert "To keep the page below" not in html


def test_command_takes_a_name_or_a_run_and_names_the_nearest_of_an_unknown_one(
    sweep, tracker, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("whole", sweep.run_id):
        report(name, output=Path("r.html"), tracking_uri=tracker.uri)
        assert re.fullmatch(r"r.html: sweep whole of duck, \d\.\d MB\n", capsys.readouterr().out)
    with pytest.raises(KronaError, match=r"no sweep 'whola' in .*; did you mean 'whole'\?"):
        report("whola", tracking_uri=tracker.uri)
    with pytest.raises(KronaError, match="is a folder; name a file in it"):
        report("whole", output=tmp_path, tracking_uri=tracker.uri)
    with pytest.raises(KronaError, match="no records at"):
        report()
