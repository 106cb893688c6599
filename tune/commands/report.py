"""`krona report`: a sweep on one page that opens without a network."""

from pathlib import Path

import tyro


def report(
    sweep: tyro.conf.Positional[str | None] = None,
    *,
    open: bool = False,
    output: Path | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Write the report of a sweep: the best adapter, how sure that is, what to type next, and why.

    Args:
        sweep: Name of the sweep, or its MLflow run. Unless given: the newest.
        open: Show it in the browser.
        output: HTML file to write. Unless given: reports/SWEEP.html.
        tracking_uri: MLflow store. Unless given: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db.
    """
    import webbrowser

    from krona.errors import KronaError
    from tune.names import existing_store
    from tune.records.tracking import Tracker

    tracker = Tracker(existing_store(tracking_uri))
    found = tracker.newest_sweep() if sweep is None else tracker.find_sweep(sweep)
    path = output or Path("reports") / f"{found.name}.html"
    if path.is_dir():
        raise KronaError(f"--output {path} is a folder; name a file in it: {path / 'report.html'}")
    _check_parent(path)

    from tune.report.page import write_report

    write_report(tracker, found, path)
    print(f"{path}: sweep {found.name} of {found.subject}, {path.stat().st_size / 1e6:.1f} MB")
    if open and not webbrowser.open(path.resolve().as_uri()):
        raise KronaError(f"no browser can be started here; open {path} by hand")


def _check_parent(path: Path) -> None:
    from tune.trials.checks import check_folder

    check_folder(path.parent, "--output")
    path.parent.mkdir(parents=True, exist_ok=True)
