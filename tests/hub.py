"""A Hugging Face hub on this machine: real HTTP, real commits, and what can go wrong with them."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_FILE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_LARGE = 100_000
"""Bytes from which the hub keeps a file elsewhere and sends the client there."""


class Request(NamedTuple):
    """What a client asked for."""

    method: str
    path: str
    client: str
    """What it calls itself."""


class Fault(NamedTuple):
    """An error in answer to every request."""

    status: int
    code: str = ""
    message: str = ""


@dataclass
class Repo:
    """A repository's commits, and which of them is main."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""
    fault: Fault | None = None


class Hub:
    """Serves repositories at ``url`` for as long as it is entered."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.cuts: dict[str, int] = {}
        """By file name how many bytes get through, whatever the number of attempts."""
        self.large: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def push(self, repo: str, content: Path | dict[str, bytes], fault: Fault | None = None) -> Repo:
        """Commit files, or all of a folder's, to a repository's main."""
        files = content if isinstance(content, dict) else {path.name: path.read_bytes() for path in content.iterdir()}
        commit = hashlib.sha1(repr((repo, sorted(files.items()))).encode()).hexdigest()
        known = self.repos.setdefault(repo, Repo())
        known.commits[commit], known.main, known.fault = files, commit, fault
        self.large |= {_digest(each): each for each in files.values() if len(each) >= _LARGE}
        return known


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""

    def _answer(self) -> None:
        self.hub.requests.append(Request(self.command, self.path, self.headers.get("User-Agent", "")))
        if self.path.startswith("/large/"):
            return self._send_file(self.hub.large[self.path.split("/")[2]], {})
        asked = _FILE.fullmatch(self.path)
        repo = self.hub.repos.get(asked["repo"]) if asked else None
        if asked is None or repo is None:
            return self._send_error(Fault(404, "RepoNotFound", "Repository not found"))
        if repo.fault:
            return self._send_error(repo.fault)
        commit = repo.main if asked["revision"] == "main" else asked["revision"]
        if commit not in repo.commits:
            return self._send_error(Fault(404, "RevisionNotFound", "Invalid rev id"))
        content = repo.commits[commit].get(asked["name"])
        if content is None:
            return self._send_error(Fault(404, "EntryNotFound", "Entry not found"), {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_digest(content)}"'}
        if len(content) < _LARGE:
            return self._send_file(content, headers)
        # Clients that can would rather fetch it through Xet.
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content)), "X-Xet-Hash": "0" * 64}
        headers["Link"] = f'<{self.hub.url}/api/models/{asked["repo"]}/xet-read-token/{commit}>; rel="xet-auth"'
        headers["Location"] = f"{self.hub.elsewhere}/large/{_digest(content)}/{asked['name']}"
        return self._send(302, headers, b"")

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(start[1]) if start else 0
        if start:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        cut = self.hub.cuts.get(self.path.rpartition("/")[2])
        self._send(206 if start else 200, headers, content[first:], None if cut is None else max(0, cut - first))

    def _send_error(self, fault: Fault, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": fault.code, "X-Error-Message": fault.message}
        given = {name: value for name, value in named.items() if value}
        self._send(fault.status, (headers or {}) | given, fault.message.encode())

    def _send(self, status: int, headers: dict[str, str], content: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])
            self.close_connection = cut is not None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
