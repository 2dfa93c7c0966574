"""One file of a hub repository at one commit, into huggingface_hub's own cache, where other programs find it too.

huggingface_hub starts a download that was cut off anew, and checks its size only. Here it goes on where it ended, and
what the hub knows the SHA-256 of is checked. By plain HTTP from the hub alone: Xet would go round a mirror.

    models--ORG--REPO/blobs/ETAG.clipcls-partial   what has come so far
    models--ORG--REPO/blobs/ETAG                   the file, once it is whole
    models--ORG--REPO/snapshots/COMMIT/NAME        a link to it
    models--ORG--REPO/refs/main                    the commit
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import huggingface_hub as hf
from huggingface_hub import constants, errors
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status

from clipcls.encoders.following import tell
from clipcls.encoders.ondisk import cache_folder
from clipcls.errors import ModelError

logger = logging.getLogger("clipcls")

PARTIAL = ".clipcls-partial"
_WAITS = (1, 2, 4, 8)
"""Seconds before each new attempt; from the start again whenever something new has come."""
_PATIENCE = 60
"""Seconds for which a hub may ask to be left alone."""
_PASSING = (408, 429, 500, 502, 503, 504)
_SMALL = 200_000_000
"""Bytes that no file has but weights; configurations and tokenizers have a fifth of it at most."""
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_HTTP_ERROR: type[Exception] = errors.HfHubHTTPError.__bases__[0]
"""The base of all errors of the HTTP library that huggingface_hub uses; which one that is has changed."""
_OFFICIAL = "https://huggingface.co"
_NOBODY_THERE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)
_DRAFT = "main."
"""How the drafts of refs/main begin, which no file's ETag does."""
_DRAFT_SECONDS = 3600
"""After which a draft is nobody's any more."""
_answered: set[str] = set()
"""The hubs that this process has had an answer from."""


class CutOffError(Exception):
    """A transfer ended before its time; another attempt may help."""


@dataclass(frozen=True, slots=True)
class _Remote:
    """A file as the hub describes it."""

    repo: str
    name: str
    commit: str
    etag: str
    """What the hub tells versions by: the SHA-256 of a large file, something else for a small one."""
    size: int | None
    url: str
    """Where its content is, which may be another host, and only for a while."""
    headers: dict[str, str]

    @property
    def blob(self) -> Path:
        return cache_folder(self.repo) / "blobs" / self.etag

    @property
    def partial(self) -> Path:
        return self.blob.with_name(self.etag + PARTIAL)

    @property
    def most(self) -> int:
        """How many bytes of it are taken, however many the hub sends."""
        size = _SMALL if self.size is None else self.size
        return size if self.name.endswith(_WEIGHTS) else min(size, _SMALL)

    def complain(self, problem: str) -> ModelError:
        """An error about this file."""
        return ModelError(f"{self.name} of {self.repo} from {constants.ENDPOINT} {problem}")


def download(repo: str, name: str, commit: str | None) -> Path:
    """Get one file, or what is missing of it; several attempts are made as long as they bring something.

    Args:
        repo: ``ORGANISATION/REPOSITORY``.
        name: a file in it.
        commit: the commit; None means what is now the main one, which is noted down.

    Raises:
        ModelError: it came damaged, or the disk is full; the message says it all.
        Exception: whatever huggingface_hub and its HTTP library raise, and OSError where the disk cannot be written.
    """
    waits, reached, remote = iter(_WAITS), 0, None
    while True:
        try:
            remote = _ask(repo, name, commit)
            commit = remote.commit
            return _bring(remote)
        except Exception as exc:
            if remote and (came := _size(remote.partial)) > reached:
                waits, reached = iter(_WAITS), came
            wait = next(waits, None)
            # A hub that has answered before may be back in a moment.
            hopeless = constants.ENDPOINT not in _answered and is_unreachable(exc)
            if wait is None or hopeless or not _may_pass(exc):
                raise
            time.sleep(max(wait, _asked_to_wait(exc)))


def sweep(home: Path) -> None:
    """Remove what is left in a repository's folder of downloads that nobody goes on with.

    Once all that a model needs is there, that is what was begun of a version that the repository has left behind.
    """
    if home.parent != Path(constants.HF_HUB_CACHE):  # somebody's own folder
        return
    begun = [path.name.removesuffix(PARTIAL) for path in home.glob(f"blobs/*{PARTIAL}") if not _is_draft(path)]
    for draft in filter(_is_draft, home.glob(f"blobs/*{PARTIAL}")):
        with suppress(OSError):  # it has just become refs/main
            if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                draft.unlink()
    claimed = [path.stem for path in _lock_path(home, "any").parent.glob("*.lock")]
    for etag in dict.fromkeys((*begun, *claimed)):
        with suppress(OSError), _lock(home, etag, wait=False) as lock:
            (home / "blobs" / (etag + PARTIAL)).unlink(missing_ok=True)
            lock.unlink()


def _ask(repo: str, name: str, commit: str | None) -> _Remote:
    """The hub's description of a file; that there is none is noted down, and never asked again."""
    url = hf.hf_hub_url(repo, name, revision=commit)
    try:
        found = _describe(url)
    except errors.RemoteEntryNotFoundError as exc:
        current = commit or exc.response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
        if current and _is_commit(current):
            absent = cache_folder(repo) / ".no_exist" / current / name
            absent.parent.mkdir(parents=True, exist_ok=True)
            absent.touch()
            if commit is None:
                note_commit(repo, current)
        raise
    current = commit or found.commit_hash
    # Both become names of files.
    named = current and _is_commit(current) and re.fullmatch(r"\w[\w.+=-]*", found.etag or "")
    if not current or not named or urlsplit(found.location).scheme not in ("http", "https"):
        raise _no_hub()
    if commit is None:
        note_commit(repo, current)
    # The token is for the hub, not for the storage that it may send us on to.
    trusted = (_origin(url), _origin(constants.ENDPOINT), _origin(_OFFICIAL))
    headers = build_hf_headers(token=None if _origin(found.location) in trusted else False)
    return _Remote(repo, name, current, found.etag, found.size, found.location, headers)


def newest_commit(repo: str) -> str:
    """What main is now on the hub; nothing is written down.

    Raises:
        ModelError: what answers is no hub.
        Exception: whatever huggingface_hub and its HTTP library raise.
    """
    try:
        commit: str | None = _describe(hf.hf_hub_url(repo, "config.json")).commit_hash
    except errors.RemoteEntryNotFoundError as exc:  # any other name would do as well
        commit = exc.response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
    if not commit or not _is_commit(commit):
        raise _no_hub()
    return commit


def _describe(url: str) -> hf.HfFileMetadata:
    if constants.HF_HUB_OFFLINE:
        raise errors.OfflineModeIsEnabled("no network is wanted")
    try:
        found = hf.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except errors.HfHubHTTPError:
        _answered.add(constants.ENDPOINT)
        raise
    _answered.add(constants.ENDPOINT)
    return found


def _no_hub() -> ModelError:
    return ModelError(
        f"{constants.ENDPOINT} does not answer as a Hugging Face hub does: "
        f"check its address (--endpoint, HF_ENDPOINT), and that no proxy answers in its place"
    )


def _bring(remote: _Remote) -> Path:
    """The link to the file in the cache, once the file is there and whole."""
    blob, home = remote.blob, cache_folder(remote.repo)
    blob.parent.mkdir(parents=True, exist_ok=True)
    pointer = home / "snapshots" / remote.commit / remote.name
    with _lock(home, remote.etag) as lock:
        new = not blob.exists() or remote.size not in (None, blob.stat().st_size)
        if new:
            _complete(remote)
            _check(remote)
            remote.partial.replace(blob)
        if new or not pointer.exists():
            _link(blob, pointer, new)
        # Whoever waits for it sees that it is gone, and then that the file is there.
        with suppress(OSError):  # Windows deletes no open file
            lock.unlink()
    return pointer


def _complete(remote: _Remote) -> None:
    """Get what is missing of the partial file."""
    remote.partial.touch()
    with remote.partial.open("r+b") as file:
        have = file.seek(0, os.SEEK_END)
        try:
            if have != remote.size:
                _check_room(remote, have)
                _receive(remote, file, have)
            os.fsync(file.fileno())
        except OSError as exc:
            if exc.errno in _FULL:
                raise _no_room(remote, file.tell()) from exc
            raise


def _receive(remote: _Remote, file: BinaryIO, have: int) -> None:
    # No If-Range: the storage behind a hub has ETags of its own. The hub has just said by the ETag in the file's name
    # that the content is the one that was begun.
    asked = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with hf.get_session().stream(
        "GET", remote.url, headers=remote.headers | asked, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        if response.status_code == 416:  # there is not that much
            file.truncate(0)
            raise CutOffError("it has no more bytes to give, and what has come is not the whole")
        # Without its body, of which huggingface_hub would read as much as comes.
        hf_raise_for_status(type(response)(response.status_code, headers=_bare(response), request=response.request))
        if response.status_code != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise CutOffError("it sent another part than the one asked for")
        file.truncate(have)
        # Always at a place of its own: two programs on a disk without locks would write the same bytes twice.
        file.seek(have)
        tell(remote.repo, remote.name, have, remote.size)
        for chunk in response.iter_bytes():  # as it comes, at most 64 KiB
            file.write(chunk)
            file.flush()
            have += len(chunk)
            if have > remote.most:
                file.truncate(0)
                raise remote.complain(
                    f"is longer than the {remote.most:,} bytes that it can have: "
                    f"try another mirror (--endpoint, HF_ENDPOINT)"
                )
            tell(remote.repo, remote.name, have, remote.size)
    if remote.size is not None and have < remote.size:
        raise CutOffError(f"the transfer ended after {have} of {remote.size} bytes")


def _bare(response: Any) -> dict[str, str]:
    """The headers of an answer that tell of an error, or how long to wait."""
    return {name: text for name, text in response.headers.items() if name.startswith("x-") or name == "retry-after"}


def _check(remote: _Remote) -> None:
    """Throw a whole file away that is not what the hub says it is."""
    size, wrong = _size(remote.partial), None
    if remote.size not in (None, size):
        wrong = f"has {size} bytes instead of {remote.size}"
    elif re.fullmatch("[0-9a-f]{64}", remote.etag):
        with remote.partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != remote.etag:
            wrong = f"has the SHA-256 {found[:12]}... instead of {remote.etag[:12]}..."
    if wrong:
        remote.partial.unlink()
        raise remote.complain(
            f"came damaged, it {wrong}, and is deleted: run it again, or try another mirror (--endpoint, HF_ENDPOINT)"
        )


def _check_room(remote: _Remote, have: int) -> None:
    if remote.size is not None and shutil.disk_usage(remote.partial.parent).free < remote.size - have:
        raise _no_room(remote, have)


def _no_room(remote: _Remote, have: int) -> ModelError:
    free = shutil.disk_usage(remote.partial.parent).free
    needed = f"needs {(remote.size - have) / 1e6:,.1f} MB more" if remote.size else "needs more room"
    return remote.complain(
        f"{needed}, and the disk of {constants.HF_HUB_CACHE} has {free / 1e6:,.1f} MB left: "
        f"free some, or set HF_HOME to a folder on another disk, and run it again"
    )


def _link(blob: Path, pointer: Path, new: bool) -> None:
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)  # a link to what is no longer there
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # Windows, as a rule; then the file takes the link's place, as huggingface_hub does it
        if not new:  # another link's place, too
            copy = blob.with_name(blob.name + PARTIAL)
            shutil.copyfile(blob, copy)
            blob = copy
        blob.replace(pointer)


def note_commit(repo: str, commit: str) -> None:
    """What main stands for, so that the rest of the model comes from the same commit."""
    main = cache_folder(repo) / "refs" / "main"
    # Whole or not at all; and whatever lies beside main would be taken for a branch. Not by tempfile, whose files
    # nobody else may read.
    draft = main.parent.parent / "blobs" / f"{_DRAFT}{secrets.token_hex(8)}{PARTIAL}"
    for folder in (main.parent, draft.parent):
        folder.mkdir(parents=True, exist_ok=True)
    draft.write_text(commit, encoding="utf-8")
    draft.replace(main)


def _is_draft(path: Path) -> bool:
    return path.name.startswith(_DRAFT)


@contextmanager
def _lock(home: Path, etag: str, *, wait: bool = True) -> Iterator[Path]:
    """The lock that huggingface_hub takes as well.

    Raises:
        TimeoutError: somebody else has it, and there is to be no waiting.
    """
    path = _lock_path(home, etag)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(path, timeout=0.2))
        except TimeoutError:
            if not wait:
                raise
            logger.info("waiting for another program that downloads the same file")
            held.enter_context(WeakFileLock(path))
        yield path


def _lock_path(home: Path, etag: str) -> Path:
    return home.parent / ".locks" / home.name / f"{etag}.lock"


def is_unreachable(exc: BaseException | None) -> bool:
    """Whether there is no such host, or nobody there who listens."""
    while exc:
        if isinstance(exc, socket.gaierror) or (isinstance(exc, OSError) and exc.errno in _NOBODY_THERE):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _may_pass(exc: Exception) -> bool:
    if isinstance(exc, errors.HfHubHTTPError):
        return _status(exc) in _PASSING
    return isinstance(exc, (CutOffError, _HTTP_ERROR))


def _asked_to_wait(exc: Exception) -> int:
    headers: Any = getattr(getattr(exc, "response", None), "headers", {})
    asked = headers.get("Retry-After") or ""
    return min(int(asked), _PATIENCE) if asked.isdecimal() else 0


def _status(exc: Any) -> int:
    return int(exc.response.status_code)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _is_commit(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", text) is not None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
