"""Servers on this machine, which are talked to as those far away are: a web server with faults, and an S3 server."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen


class Web:
    """A web server; ``faults`` holds what it does wrong with a path, request by request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[int | str]] = {}
        """HTTP statuses, of which 200 is none, or ``cut`` (breaks off), ``drip`` (is slow), ``reset`` (no answer)."""
        self.ranges = True
        self.sizes = True
        self.tags = False
        """Whether it tells a file's version."""
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.answer(self, body=True)

            def do_HEAD(self) -> None:
                web.answer(self, body=False)

            def log_message(self, *args: object) -> None:
                pass

        return Handler

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path
        self.asked[path] += 1
        self.agents.add(request.headers.get("User-Agent", ""))
        fault = self.faults[path].pop(0) if self.faults.get(path) else None
        if fault == "reset":
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        if (isinstance(fault, int) and fault != 200) or path not in self.files:
            request.send_error(fault if isinstance(fault, int) else 404)
            return
        data, status = self.files[path], 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")) if self.ranges else None
        if asked:
            data, status = data[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None], 206
        request.send_response(status)
        if self.sizes:
            request.send_header("Content-Length", str(len(data)))
        if self.tags:
            request.send_header("ETag", f'"{zlib.crc32(self.files[path])}"')
        if self.ranges:
            request.send_header("Accept-Ranges", "bytes")
        if asked:
            request.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(data) - 1}/*")
        request.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        request.end_headers()
        if not body:
            return
        if fault == "drip":
            for byte in data:
                request.wfile.write(bytes([byte]))
                time.sleep(0.02)
        else:
            request.wfile.write(data[: len(data) // 2] if fault == "cut" else data)


def tar(members: Mapping[str, bytes]) -> bytes:
    """An archive, as a server gives it."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return held.getvalue()


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[Mapping[str, str]]:
    """moto's S3 over HTTP in a process of its own, with one user who has a bucket called ``pictures``.

    Yields:
        What such a user has in the environment.
    """
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/moto-api/", process)
        yield _user(url)
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "moto's server has ended"
        try:
            urlopen(url, timeout=10).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("moto's server does not answer")


def _user(url: str) -> Mapping[str, str]:
    known = {"region_name": "us-east-1", "aws_access_key_id": "setup", "aws_secret_access_key": "setup"}
    import boto3

    iam: Any = boto3.client("iam", endpoint_url=url, **known)
    iam.create_user(UserName="person")
    key = iam.create_access_key(UserName="person")["AccessKey"]
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="person", PolicyName="own", PolicyDocument=json.dumps(allowed))
    from_now_on = Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST")
    urlopen(from_now_on, timeout=10).close()  # every request must be signed with the user's key
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
