"""Photograph docs/report.png and docs/mlflow.png: the newest sweep's report; its trials in MLflow.

Run after `make sweep`, while `make ui` runs: .venv/bin/python docs/screens.py
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import sync_playwright

from tune.names import resolve_tracking_uri
from tune.records.ranking import best, rank
from tune.records.shown import save_views
from tune.records.tracking import Tracker
from tune.records.views import server_url
from tune.report.page import write_report

FOLDER = Path(__file__).parent
WIDTH_PX, HEIGHT_PX = 1500, 860
DRAWN_MS = 3000  # plots and thumbnails come after the page


def photograph(browser: Any, address: str, ready: str, name: str) -> None:
    """Save what a new browser shows of a page once an element is there."""
    page = browser.new_context(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}).new_page()
    page.goto(address)
    page.locator(ready).first.wait_for()
    page.wait_for_timeout(DRAWN_MS)
    page.screenshot(path=FOLDER / name)


def main() -> None:
    """Write both pictures beside this script."""
    tracker = Tracker(resolve_tracking_uri())
    sweep = tracker.newest_sweep()
    views = save_views(tracker, sweep, best(rank(tracker, sweep.run_id)))
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright, TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        report = write_report(tracker, sweep, Path(scratch) / "report.html")
        photograph(browser, report.as_uri(), "#answer", "report.png")
        trials = f"{server_url(tracker.uri)}/{views['trials']}"
        photograph(browser, trials, "[role=gridcell][col-id='metrics.`rank`']", "mlflow.png")


if __name__ == "__main__":
    main()
