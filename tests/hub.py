"""A Hugging Face hub on this machine: real HTTP, real commits, and what can go wrong with them."""

from __future__ import annotations

import hashlib
import itertools
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_FILE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_PIECE = 16_384
_LARGE = 100_000
"""Bytes from which the hub keeps a file elsewhere and sends the client there."""


class Request(NamedTuple):
    """What a client asked for."""

    method: str
    path: str
    client: str
    """What it calls itself."""
    token: str
    """Who it says it is."""
    host: str


@dataclass
class Sent:
    """What has gone out of a file in answer to one request."""

    name: str
    first: int
    """The first byte."""
    count: int = 0
    """How many bytes."""


class Fault(NamedTuple):
    """An error in answer to a request."""

    status: int
    code: str = ""
    message: str = ""
    wait: str = ""
    """Retry-After."""


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
        self.drops: dict[str, list[int]] = {}
        """By file name how many bytes get through in one attempt after another; then all of them."""
        self.wrong: dict[str, bytes] = {}
        """By file name what is sent in its place."""
        self.stumbles: list[Fault] = []
        """Errors in answer to the next requests, one each."""
        self.lies: dict[tuple[str, str], dict[str, str | None]] = {}
        """By method and file name headers that are sent in place of the true ones; None sends none."""
        self.endless: set[str] = set()
        """Names of files whose content begins anew when it is over, and never ends."""
        self.statuses: dict[str, int] = {}
        """By file name the status with which its content comes."""
        self.ranges = True
        """Whether a part of a file can be had."""
        self.shift = 0
        """How many bytes behind what was asked for the parts begin."""
        self.pause = 0.0
        """Seconds after each piece."""
        self.sent: list[Sent] = []
        self.watch: Callable[[int], None] = lambda total: None
        """Told after every piece how many bytes have gone out in all."""
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

    @property
    def total(self) -> int:
        """How many bytes of files have gone out."""
        return sum(each.count for each in self.sent)

    def forget_lies(self) -> None:
        """Send from now on what there is, as it is."""
        for lies in (self.wrong, self.lies, self.endless, self.statuses):
            lies.clear()

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

    def setup(self) -> None:
        # What waits in a buffer here has not been fetched by anybody.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        super().setup()

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""

    def _answer(self) -> None:
        told = (self.headers.get(name, "") for name in ("User-Agent", "Authorization", "Host"))
        self.hub.requests.append(Request(self.command, self.path, *told))
        if self.hub.stumbles:
            return self._send_error(self.hub.stumbles.pop(0))
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
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_digest(content)}"'}
        if len(content) < _LARGE:
            return self._send_file(content, headers)
        # Clients that can would rather fetch it through Xet.
        headers |= {"X-Linked-Etag": f'"{_digest(content)}"', "X-Linked-Size": str(len(content))}
        headers["X-Xet-Hash"] = "0" * 64
        headers["Link"] = f'<{self.hub.url}/api/models/{asked["repo"]}/xet-read-token/{commit}>; rel="xet-auth"'
        headers["Location"] = f"{self.hub.elsewhere}/large/{_digest(content)}/{asked['name']}"
        return self._send(302, headers, b"")

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        name = self.path.rpartition("/")[2]
        content = self.hub.wrong.get(name, content)
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.hub.ranges else None
        first = int(start[1]) if start else 0
        if first and first >= len(content):
            return self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
        if start:
            first += self.hub.shift
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        drops = self.hub.drops.get(name) if self.command == "GET" else None
        ends = [drops.pop(0)] if drops else []
        ends += [max(0, self.hub.cuts[name] - first)] if name in self.hub.cuts else []
        return self._send(206 if start else 200, headers, content[first:], min(ends, default=None), (name, first))

    def _send_error(self, fault: Fault, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": fault.code, "X-Error-Message": fault.message, "Retry-After": fault.wait}
        given = {name: value for name, value in named.items() if value}
        self._send(fault.status, (headers or {}) | given, fault.message.encode())

    def _send(
        self,
        status: int,
        headers: dict[str, str],
        content: bytes,
        cut: int | None = None,
        file: tuple[str, int] | None = None,
    ) -> None:
        name = self.path.rpartition("/")[2]
        self.send_response(self.hub.statuses.get(name, status) if self.command == "GET" else status)
        lies = self.hub.lies.get((self.command, name), {})
        for header, value in ({**headers, "Content-Length": str(len(content))} | lies).items():
            if value is not None:
                self.send_header(header, value)
        self.end_headers()
        if self.command != "GET":
            return
        # Without a length the end of the connection is the end of the file.
        self.close_connection = cut is not None or "Content-Length" in lies
        kept = content[:cut]
        sent = Sent(*file) if file else None
        if sent:
            self.hub.sent.append(sent)
        starts = range(0, len(kept), _PIECE)
        for start in itertools.cycle(starts) if name in self.hub.endless else starts:
            try:
                self.wfile.write(kept[start : start + _PIECE])
            except OSError:  # the client has gone
                self.close_connection = True
                return
            if sent:
                sent.count = min(start + _PIECE, len(kept))
                self.hub.watch(self.hub.total)
                time.sleep(self.hub.pause)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
