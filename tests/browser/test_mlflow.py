"""The links of `krona ui` in a browser that opens MLflow for the first time: no click is needed."""

from typing import Any

import pytest
from served import CONFIRMED_BALANCES

pytestmark = pytest.mark.browser

COLUMNS = ["rank", "confirmed_balance", "confirmed_half_width"]
COLUMNS += ["best_balance", "best_subject", "best_prompt", "a1", "a2", "learning_rate", "targets"]
COLUMNS += ["best_step", "num_params"]


def is_quiet(page: Any) -> bool:
    """Whether no script of the page failed."""
    assert page.problems == []
    return True


def test_trials_open_in_the_order_of_their_rank_finalists_first(page, links):
    page.goto(links["trials"])
    page.get_by_text("trial-002", exact=True).wait_for()
    page.locator("[role=row] [col-id='metrics.`rank`']").first.wait_for()
    ranks = page.locator("[role=gridcell][col-id='metrics.`rank`']").all_inner_texts()
    assert [float(rank) for rank in ranks] == [1, 2, 3, 4]
    cells = page.locator("[role=gridcell][col-id='metrics.`confirmed_balance`']").all_inner_texts()
    assert list(map(float, cells[:2])) == sorted(CONFIRMED_BALANCES.values(), reverse=True)
    assert page.get_by_text("Model training", exact=True).is_visible()
    assert is_quiet(page)


def test_trials_show_scores_settings_and_size_in_this_order(page, links):
    page.goto(links["trials"])
    page.locator("[role=columnheader][col-id='metrics.`num_params`']").wait_for()
    headers = page.locator("[role=columnheader][col-id*='`']")
    left = sorted((header.bounding_box()["x"], header.inner_text()) for header in headers.all())
    assert [name for _, name in left if name in COLUMNS] == COLUMNS


def test_charts_show_the_curves_of_balance_subject_and_prompt(page, links):
    page.goto(links["charts"])
    area = page.get_by_test_id("experiment-view-compare-runs-chart-area")
    for number in range(3):
        area.locator(".js-plotly-plot").nth(number).wait_for()
    titles = [area.get_by_text(name, exact=True).first for name in ("balance", "subject", "prompt")]
    assert all(title.is_visible() for title in titles)
    assert is_quiet(page)


def test_the_champions_images_open_at_its_best_step(page, links):
    page.goto(links["champion's images"])
    image = page.locator("[data-testid=experiment-view-compare-runs-chart-area] img").first
    image.wait_for()
    assert page.get_by_role("spinbutton").first.input_value() == "100"
    assert is_quiet(page)


def test_the_sweep_describes_itself_and_its_links_lead_to_the_trials(page, links):
    page.goto(links["sweep"])
    page.get_by_text("the best is trial 003").wait_for()
    assert page.get_by_text('krona export --subject "duck"').is_visible()
    link = page.get_by_role("link", name="trials", exact=True).get_attribute("href")
    page.goto(links["sweep"].partition("#")[0] + link)
    page.locator("[role=gridcell][col-id='metrics.`best_balance`']").first.wait_for()
    assert is_quiet(page)
