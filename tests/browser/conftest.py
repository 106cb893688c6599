"""Chromium with an empty profile, and a store of one sweep that a real `krona ui` serves."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from served import record_sweep

ROOT = Path(__file__).parents[2]
KRONA = "from tune.cli import main; main()"
START_S = 120.0  # MLflow's server takes seconds alone, far more beside other tests
REQUIRED = "KRONA_REQUIRE_BROWSER"
HOW = "no Chromium; apt-get install chromium, or your system's package, and pip install playwright"


def _missing(why: str) -> None:
    if os.environ.get(REQUIRED):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, without a window.

    Playwright's event loop runs in this thread until it is closed, so no test of another file may
    come before that.
    """
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        executable = None
    if executable is None:
        _missing(HOW)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser that has never seen MLflow; `page.problems` is what its console said."""
    context = browser.new_context(viewport={"width": 1500, "height": 800})
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    context.close()


@pytest.fixture(scope="module")
def links(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What `krona ui` prints of a recorded sweep while it serves it: addresses by what they show.

    A link of its own, "sweep", is to the parent run.
    """
    folder = tmp_path_factory.mktemp("served")
    uri = f"sqlite:///{folder}/mlflow.db"
    parent = record_sweep(uri)
    port = _free_port()
    command = [sys.executable, "-c", KRONA, "ui", "--port", str(port), "--tracking-uri", uri]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        found = _links(_until_ready(server))
        yield found | {"sweep": f"http://127.0.0.1:{port}/{parent}"}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_ready(server: "subprocess.Popen[str]") -> list[str]:
    """The lines that it prints until it takes requests; the rest is read so that it never waits."""
    lines: Queue[str] = Queue()
    assert server.stdout is not None
    output = server.stdout
    threading.Thread(target=lambda: [lines.put(line) for line in output], daemon=True).start()
    said: list[str] = []
    try:
        while not said or "startup complete" not in said[-1]:
            said.append(lines.get(timeout=START_S))
    except Empty:
        pytest.fail("the server does not start:\n" + "".join(said))
    return said


def _links(said: list[str]) -> dict[str, str]:
    parted = (line.strip().partition(" http://") for line in said if "viewStateShareKey" in line)
    return {what.strip(): f"http://{rest}" for what, _, rest in parted}
