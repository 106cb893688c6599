"""`krona ui`: MLflow's own UI over the records of the sweeps."""

import os
import sys

from tune.records.views import UI_HOST, UI_PORT, server_url


def ui(*, host: str = UI_HOST, port: int = UI_PORT, tracking_uri: str | None = None) -> None:
    """Serve the MLflow UI until Ctrl-C; a database that is not there yet is made.

    Args:
        host: Address to listen on; other machines reach it only if it is not 127.0.0.1.
        port: TCP port.
        tracking_uri: MLflow database to serve. Unless given: $MLFLOW_TRACKING_URI or
            sqlite:///mlflow.db.
    """
    from tune.names import HTTP, SQLITE, artifact_root, resolve_tracking_uri

    uri = resolve_tracking_uri(tracking_uri)
    if uri.startswith(HTTP):
        print(f"{uri} is a running server; open it in a browser")
        _print_links(uri, server_url(uri))
        return
    print(f"MLflow UI: http://{host}:{port}  (store: {uri})", flush=True)
    _print_links(uri, server_url(uri, UI_HOST if host == "0.0.0.0" else host, port))
    # the job runner of the MLflow server takes 1.2 GB and serves nothing that krona records
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    if uri.startswith(SQLITE):
        command += ["--artifacts-destination", artifact_root(uri).as_uri()]
    os.execv(sys.executable, command)


def _print_links(uri: str, server: str) -> None:
    """Print where the newest sweep of a store is seen, if it has one."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else minutes, if it is away
    from tune.names import existing_store
    from tune.records.ranking import best, rank
    from tune.records.shown import link_lines, save_views
    from tune.records.tracking import Tracker

    try:
        tracker = Tracker(existing_store(uri))
        sweep = tracker.newest_sweep()
        paths = save_views(tracker, sweep, best(rank(tracker, sweep.run_id)))
    except Exception as error:  # an empty store, or one that cannot be read: the server starts
        print(f"no links to a sweep: {str(error).partition(chr(10))[0]}", flush=True)
        return
    print(f"sweep {sweep.name} of {sweep.subject} {link_lines(uri, paths, server)}", flush=True)
