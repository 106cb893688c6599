"""A folder in; out, a hub on 127.0.0.1 that serves it as org/tiny, and what was asked of it.

It answers as a hub does what huggingface_hub asks: information, listing, files with their hashes.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(kw_only=True)
class Hub:
    """What runs: where, and which files it gave how often."""

    url: str
    given: Counter[str] = field(default_factory=Counter)


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve a folder as org/tiny, and as org/gated, whose files nobody gets."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(url=f"http://127.0.0.1:{server.server_port}")
    server.hub, server.folder = hub, folder  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repo, kind, revision, *rest = self._split(parts[2:] if is_api else parts)
        if repo not in ("org/tiny", "org/gated"):
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif is_api:
            self._answer(self._information(repo) if kind == "revision" else self._tree())
        elif repo == "org/gated":
            self._refuse(403, "GatedRepo")
        else:
            self._give(self.server.folder.joinpath(*rest), "/".join(rest))

    def _split(self, parts: list[str]) -> list[str]:
        return ["/".join(parts[:2]), *parts[2:], "", ""][: max(3, len(parts) - 1)]

    def _files(self) -> list[Path]:
        folder: Path = self.server.folder
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def _information(self, repo: str) -> dict[str, Any]:
        names = [path.relative_to(self.server.folder).as_posix() for path in self._files()]
        return {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}

    def _tree(self) -> list[dict[str, Any]]:
        return [
            {
                "type": "file",
                "path": path.relative_to(self.server.folder).as_posix(),
                "size": path.stat().st_size,
                "oid": _hash(path.read_bytes()),
            }
            for path in self._files()
        ]

    def _answer(self, content: Any) -> None:
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _give(self, path: Path, name: str) -> None:
        content = path.read_bytes()
        if self.command == "GET":
            self.server.hub.given[name] += 1
            time.sleep(0.05)  # so that processes that ask at once really do
        self._send(content, {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": COMMIT})

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status=status)

    def _send(self, content: bytes, headers: dict[str, str], *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing goes to the terminal."""


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
