"""A recorded sweep in; the views, descriptions and links by which MLflow's pages show it out."""

from collections.abc import Mapping, Sequence

from tune.names import HTTP, PastSweep
from tune.records.notes import sweep_note, trial_note
from tune.records.ranking import Row, best
from tune.records.tracking import Tracker
from tune.records.views import champion_view, charts_view, run_path, server_url, trials_view

REPORT = "report.html"
CHAMPION_LINK = "champion's images"


def show(tracker: Tracker, sweep: PastSweep, rows: Sequence[Row]) -> dict[str, str]:
    """Save the views of a sweep and describe its runs.

    Returns: the addresses of the views below that of the server, by what they show.
    """
    champion = best(rows)
    paths = save_views(tracker, sweep, champion)
    parent = run_path(sweep.experiment_id, sweep.run_id)
    for row in rows:
        tracker.set_note(row.run_id, trial_note(row, sweep.experiment_id, parent))
    tab = f"/artifacts/{REPORT}" if REPORT in tracker.files(sweep.run_id) else "/artifacts"
    links = paths | {"report": run_path(sweep.experiment_id, sweep.run_id, tab)}
    if champion is not None:
        links["champion"] = run_path(sweep.experiment_id, champion.run_id)
    tracker.set_note(sweep.run_id, sweep_note(sweep, rows, champion, links))
    return paths


def save_views(tracker: Tracker, sweep: PastSweep, champion: Row | None) -> dict[str, str]:
    """Save the views of a sweep. Returns: their addresses, by what they show."""
    has_ranks = champion is not None and champion.place is not None
    views = {
        "trials": trials_view(sweep.name, sweep.run_id, has_ranks=has_ranks),
        "charts": charts_view(sweep.name, sweep.run_id),
    }
    if champion is not None:
        keys = tracker.image_keys(champion.run_id)
        views[CHAMPION_LINK] = champion_view(
            sweep.name, sweep.run_id, champion.run_id, keys, step=champion.best_step or 0
        )
    tracker.tag_experiment(sweep.experiment_id, [view.tag() for view in views.values()])
    return {what: view.path(sweep.experiment_id) for what, view in views.items()}


def link_lines(uri: str, paths: Mapping[str, str], server: str | None = None) -> str:
    """Links to a sweep's views, a line each.

    Args:
        server: address of the running server; else the store's own, or the one of `krona ui`.
    """
    is_there = server is not None or uri.startswith(HTTP)
    title = "in MLflow:" if is_there else "in MLflow, while `krona ui` runs:"
    base = server or server_url(uri)
    return "\n".join([title, *(f"  {what:<17} {base}/{path}" for what, path in paths.items())])
