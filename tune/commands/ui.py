"""`krona ui`: MLflow's own UI over the records of the sweeps."""

import os
import sys


def ui(*, host: str = "127.0.0.1", port: int = 5000, tracking_uri: str | None = None) -> None:
    """Serve the MLflow UI until Ctrl-C; a database that is not there yet is made.

    Args:
        host: Address to listen on; other machines reach it only if it is not 127.0.0.1.
        port: TCP port.
        tracking_uri: MLflow database to serve. Unless given: $MLFLOW_TRACKING_URI or
            sqlite:///mlflow.db.
    """
    from krona.errors import KronaError
    from tune.names import SQLITE, artifact_root, resolve_tracking_uri

    uri = resolve_tracking_uri(tracking_uri)
    if uri.startswith(("http://", "https://")):
        raise KronaError(f"{uri} is a running server already; open it in a browser")
    print(f"MLflow UI: http://{host}:{port}  (store: {uri})", flush=True)
    # the job runner of the MLflow server takes 1.2 GB and serves nothing that krona records
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    if uri.startswith(SQLITE):
        command += ["--artifacts-destination", artifact_root(uri).as_uri()]
    os.execv(sys.executable, command)
