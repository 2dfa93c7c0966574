"""Decoding in a process of its own, which can be killed: what goes on in a thread cannot be.

Both sides write a line of JSON, and after it the bytes that it announces. To the process go the options and the file;
from it come the pixels that it claims, which are granted with a line, and then the picture or why there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from clipcls.decode import decode
from clipcls.errors import DecodeError

if TYPE_CHECKING:
    from PIL.Image import Image

_STRIP = 256
"""Rows that are written at once."""


class Decoder:
    """Decodes in another process, one picture at a time; it is started when there is one, also after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """The process; where there is none, a new one that is ready to decode."""
        if self._process is None:
            self._process = _started()
            assert self._process.stdout
            self._process.stdout.readline()
        return self._process

    def decode(
        self, data: bytes, *, min_side: int | None, name: str, max_pixels: int, claim: Callable[[int], object]
    ) -> Image:
        """What ``clipcls.decode.decode`` does.

        Raises:
            DecodeError: the picture cannot be read, or the process ended over it.
        """
        options = {"bytes": len(data), "min_side": min_side, "name": name, "max_pixels": max_pixels}
        process = self.start()
        assert process.stdin and process.stdout
        try:
            _write(process.stdin, options, data)
            while "pixels" in (answer := json.loads(process.stdout.readline())):
                claim(answer["pixels"])
                _write(process.stdin, {})
            if "error" in answer:
                raise DecodeError(answer["error"], lasting=answer["lasting"])
            return _picture(answer["size"], process.stdout)
        except (OSError, ValueError) as exc:  # its end of the pipe is gone
            self.close()
            raise DecodeError("the decoder crashed over it", lasting=False) from exc

    def kill(self) -> None:
        """End the process at once; may be called from another thread."""
        if process := self._process:
            process.kill()

    def close(self) -> None:
        """End the process and let go of it."""
        if process := self._process:
            process.kill()
            with contextlib.suppress(BrokenPipeError), process:  # closing it writes what it has not read
                self._process = None


def python(code: str, *arguments: str) -> list[str]:
    """The command of a process of Python's that imports what this one imports.

    A bare ``-m`` or ``-c`` would import from the current folder first, whoever filled it.
    """
    return [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}", *arguments]


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        python(f"from clipcls.isolated import serve; serve({os.getpid()})"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _picture(size: tuple[int, int], stream: IO[bytes]) -> Image:
    from PIL.Image import frombytes

    width, height = size
    data = stream.read(3 * width * height)
    return frombytes("RGB", (width, height), data)


def _write(stream: IO[bytes], head: dict[str, Any], data: bytes = b"") -> None:
    stream.write(json.dumps(head).encode() + b"\n")
    stream.write(data)
    stream.flush()


def serve(parent: int) -> None:
    """Decode what comes on stdin until it ends, or until the process that asks, ``parent``, is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print
    from PIL import Image

    Image.init()  # now, since it takes a while
    with contextlib.suppress(BrokenPipeError):
        _write(answers, {})
        while line := sys.stdin.buffer.readline():
            _serve_one(json.loads(line), sys.stdin.buffer, answers)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: while a picture is decoded it does not see that nobody asks."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _serve_one(options: dict[str, Any], questions: IO[bytes], answers: IO[bytes]) -> None:
    def claim(pixels: int) -> None:
        _write(answers, {"pixels": pixels})
        questions.readline()

    data = questions.read(options.pop("bytes"))
    try:
        image = decode(data, claim=claim, **options)
    except DecodeError as exc:
        _write(answers, {"error": str(exc), "lasting": exc.lasting})
        return
    _write(answers, {"size": image.size})
    for top in range(0, image.height, _STRIP):  # the whole as bytes would take the memory once more
        answers.write(image.crop((0, top, image.width, min(top + _STRIP, image.height))).tobytes())
    answers.flush()
