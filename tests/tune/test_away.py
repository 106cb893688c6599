"""What a sweep stands on and is not there: a server, a cluster, or a sweep that runs already."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from krona.errors import KronaError
from tune.config.folder import SweepFolder
from tune.names import check_answers, existing_store

HOLD = (
    "import pathlib, sys, time; from tune.config.folder import SweepFolder;"
    "folder = SweepFolder(path=pathlib.Path(sys.argv[1])); held = folder.held(); held.__enter__();"
    "print('held', flush=True); time.sleep(600)"
)

# in a process of its own: the other tests' cluster would be joined already
JOIN = "import sys, tune.slots.cluster as c; c.ray_session(sys.argv[1]).__enter__()"


@pytest.fixture
def nobody() -> str:
    """An address of this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("check", [check_answers, existing_store])
def test_a_store_whose_server_is_away_is_told(nobody, check):
    with pytest.raises(KronaError, match=f"no MLflow server answers at http://{nobody} .*krona ui"):
        check(f"http://{nobody}")


def test_a_server_that_answers_anything_is_there():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        code = f"from tune.names import check_answers; check_answers('http://127.0.0.1:{port}')"
        client = subprocess.Popen([sys.executable, "-c", code])
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        assert client.wait(60) == 0


def test_a_cluster_that_is_gone_is_one_line(nobody):
    asked = subprocess.run(
        [sys.executable, "-c", JOIN, nobody], capture_output=True, text=True, check=False
    )
    assert f"KronaError: the Ray cluster at {nobody} cannot be joined" in asked.stderr
    assert "leave --address and $RAY_ADDRESS out" in asked.stderr


def test_a_sweep_that_runs_is_not_run_twice_and_a_dead_one_holds_nothing(tmp_path: Path):
    folder = SweepFolder(path=tmp_path / "one")
    runner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    assert runner.stdout is not None
    assert runner.stdout.readline() == "held\n"
    with pytest.raises(KronaError, match=f"sweep 'one' is run by process {runner.pid} on "):
        folder.held().__enter__()
    runner.kill()
    runner.wait()
    with folder.held():
        assert (folder.path / "runner").read_text().startswith(f"process {os.getpid()} on ")
