"""A report in a browser without a network: plots draw, the slider turns the images' step."""

from pathlib import Path
from typing import Any

import pytest
from served import STEPS, record_sweep

from tune.records.tracking import Tracker
from tune.report.page import write_report

pytestmark = pytest.mark.browser


def test_the_report_draws_its_plots_and_its_slider_changes_the_images(
    page: Any, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    record_sweep(uri)
    tracker = Tracker(uri)
    path = write_report(tracker, tracker.newest_sweep(), tmp_path / "report.html")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.locator("html[data-ready=true]").wait_for()
    assert page.locator(".js-plotly-plot").count() >= 3

    def shown() -> list[str]:
        return [image.get_attribute("src") for image in page.locator("#images img:visible").all()]

    slider, before = page.locator("#step"), shown()
    assert before
    slider.fill(slider.get_attribute("min"))
    after = shown()
    assert len(STEPS) == 2
    assert after
    assert after != before
    assert page.problems == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {path.as_uri()}
