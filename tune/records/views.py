"""What MLflow's pages show of a sweep: its ids and names in; experiment tags and links out.

MLflow 3.17 keeps a view of an experiment (filter, order, columns, charts) in a tag; a link opens it
by the tag's key. What else a link says of filter or order would make the page ignore the tag.
"""

import base64
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.names import (
    BEST,
    BEST_STEP,
    CONFIRMED,
    HALF_WIDTH,
    HTTP,
    METRIC,
    NUM_PARAMS,
    PARENT_TAG,
    RANK,
    VIEW_TAG,
)

UI_HOST, UI_PORT = "127.0.0.1", 5000
WIDTHS = {
    "attributes.`Run Name`": 95,
    f"metrics.`{RANK}`": 55,
    f"metrics.`{CONFIRMED}`": 105,
    f"metrics.`{HALF_WIDTH}`": 80,
    f"metrics.`{BEST}`": 90,
    "metrics.`best_subject`": 75,
    "metrics.`best_prompt`": 75,
    "params.`a1`": 50,
    "params.`a2`": 50,
    "params.`learning_rate`": 95,
    "params.`targets`": 65,
    f"metrics.`{BEST_STEP}`": 75,
    f"metrics.`{NUM_PARAMS}`": 90,
}
CURVES = (METRIC, "subject", "prompt")
MAX_VALUE = 5000  # characters that a store takes in an experiment's tag


@dataclass(frozen=True, kw_only=True)
class View:
    """A saved view of an experiment's page: the key that links name, its title in the menu."""

    key: str
    title: str
    state: Mapping[str, Any]
    is_chart: bool = False

    def tag(self) -> tuple[str, str]:
        """The experiment's tag that holds it."""
        now = int(time.time() * 1000)
        packed = zlib.compress(json.dumps(self.state).encode(), 9)
        state = "deflate;" + base64.b64encode(packed).decode()
        view = {"name": self.title, "createdAt": now, "updatedAt": now, "state": state}
        return VIEW_TAG + self.key, json.dumps(view)

    def path(self, experiment_id: str) -> str:
        """Its address below that of the server."""
        mode = "&compareRunsMode=CHART" if self.is_chart else ""
        return (
            f"#/experiments/{experiment_id}/runs?workflowType=machine_learning{mode}"
            f"&viewStateShareKey={self.key}"
        )


def trials_view(sweep: str, parent_id: str, *, has_ranks: bool = False) -> View:
    """The table of a sweep's trials, best first."""
    state = _ranked(f"tags.`{PARENT_TAG}` = '{parent_id}'", has_ranks=has_ranks) | {
        "selectedColumns": [name for name in WIDTHS if "Run Name" not in name],
        "columnOrder": ["1", "attributes.`Run Name`", *list(WIDTHS)[1:], "runDateAndNestInfo"],
        "columnWidths": WIDTHS | {"runDateAndNestInfo": 60},
    }
    return View(key=_key(parent_id, "trials"), title=f"{sweep}: trials", state=state)


def charts_view(sweep: str, parent_id: str) -> View:
    """The curves of balance, subject and prompt over the steps of a sweep's trials."""
    cards = [_line(name) for name in CURVES]
    state = _ranked(f"tags.`{PARENT_TAG}` = '{parent_id}'") | _charts("Scores", cards, columns=3)
    return View(key=_key(parent_id, "charts"), title=f"{sweep}: charts", state=state, is_chart=True)


def champion_view(
    sweep: str, parent_id: str, run_id: str, image_keys: Sequence[str], *, step: int
) -> View:
    """The champion's images, with a slider over its steps that begins at its best."""
    card = {
        "uuid": "images",
        "type": "IMAGE",
        "metricSectionId": "shown",
        "imageKeys": _fitting(image_keys),
        "step": step,
        "runsCountToCompare": 1,
        "showRunParams": False,
    }
    state = _ranked(f"attributes.run_id = '{run_id}'") | _charts(
        "Images", [card], columns=1, cardHeight=900
    )
    state["runListHidden"] = True
    title = f"{sweep}: champion's images"
    return View(key=_key(parent_id, "champion"), title=title, state=state, is_chart=True)


def run_path(experiment_id: str, run_id: str, tab: str = "") -> str:
    """The address of a run's page below that of the server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab}?workflowType=machine_learning"


def server_url(uri: str, host: str = UI_HOST, port: int = UI_PORT) -> str:
    """Where a store's pages are: at the server that it is, else where `krona ui` serves it."""
    return uri.rstrip("/") if uri.startswith(HTTP) else f"http://{host}:{port}"


def _key(parent_id: str, what: str) -> str:
    return f"krona-{parent_id[:8]}-{what}"


def _ranked(search: str, *, has_ranks: bool = False) -> dict[str, Any]:
    """Best first: by the time of creation the page would add each trial's parent.

    While a sweep runs its trials have no rank.
    """
    key, is_rising = (RANK, True) if has_ranks else (BEST, False)
    return {"searchFilter": search, "orderByKey": f"metrics.`{key}`", "orderByAsc": is_rising}


def _line(metric: str) -> dict[str, Any]:
    return {
        "uuid": metric,
        "type": "LINE",
        "metricSectionId": "shown",
        "metricKey": metric,
        "displayName": metric,
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _charts(section: str, cards: Sequence[Mapping[str, Any]], **layout: int) -> dict[str, Any]:
    """A section open with these charts; the page adds all others to its own, which is closed."""
    common = {"deleted": False, "isReordered": True, "isGenerated": False}
    return {
        "compareRunCharts": [{"deleted": False, "isGenerated": False, **card} for card in cards],
        "compareRunSections": [
            {"uuid": "shown", "name": section, "display": True, **layout, **common},
            {"uuid": "others", "name": "Model metrics", "display": False, **common},
        ],
        "isAccordionReordered": True,
    }


def _fitting(keys: Sequence[str]) -> list[str]:
    """As many keys as surely fit into a tag, however they compress."""
    room, fitting = MAX_VALUE // 2, []
    for key in keys:
        room -= len(key) + 4
        if room < 0:
            break
        fitting.append(key)
    return fitting
