"""Images into one folder a label, and back: a plan, its undo file, and what a crash in between leaves.

The undo file is the plan: it is on the disk, whole, before the first image is touched, and ``undo`` asks the folders
how far the plan came. So it stays true wherever a sort is killed, and after a power cut as well. A moved image is at
every moment whole in one place, its old or its new one: an empty file takes the new name first, which fails where
there is anything of that name, and then the image takes that file's place in one step. From one disk to another the
copy is brought to the disk before the original goes. What a power cut spoils of a copy has its original.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import re
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import IO, Literal, cast, get_args

from clipcls import __version__
from clipcls.errors import InputError, OutputError
from clipcls.labels import composed
from clipcls.records import Failure, Prediction, Record
from clipcls.sinks.cells import printable
from clipcls.sinks.durable import lock, move
from clipcls.sinks.runinfo import timestamp
from clipcls.sources.selection import CONTAINER_SUFFIXES, suffix_of
from clipcls.video import video_of

Mode = Literal["copy", "move", "link", "symlink"]

UNCERTAIN, FAILED = "_uncertain", "_failed"
"""The folders of images without a label; no label's own folder is called so."""

NO_FILE = "in an archive, in a table or far away: only files on this machine can be sorted"
"""Why an image without a file of its own is not sorted."""

_UNDO, _UNDONE = ".undo.jsonl", ".undone"
_FORMAT = 1
_LONGEST = 255
"""Bytes of a file's name."""
_UNSAFE = re.compile('[/\\\\<>:"|?*\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\.|$)", re.IGNORECASE)
_HOPELESS = (errno.ENOSPC, errno.EDQUOT)
"""What would happen to the next image too."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Placing:
    """One image, and where it goes."""

    source: str
    """From the plan's base."""
    folder: str
    name: str
    size: int
    """Of the image, as it was planned; so is ``mtime_ns``."""
    mtime_ns: int

    @property
    def target(self) -> str:
        """From the plan's ``into``."""
        return os.path.join(self.folder, self.name)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where each image goes."""

    into: Path
    mode: Mode
    base: Path
    """Absolute folder that relative sources start from."""
    folders: dict[str, str]
    """Each label's, in label order."""
    placings: tuple[Placing, ...]
    missing: tuple[Failure, ...]
    """What cannot be placed, and why."""
    inside: int
    """How many images were left out because they lie in ``into`` already."""
    there: int
    """How many because the same file is in their folder already, under the same name."""


@dataclass(frozen=True, slots=True)
class _Head:
    """The undo file's first line. A ``Placing`` a line follows, and one more for an image that took another name."""

    mode: Mode
    base: str
    folders: list[str]
    """Those that the sort makes."""
    version: str = __version__
    created: str = field(default_factory=timestamp)
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo did."""

    images: int
    """How many went back, or had their copy or link removed."""
    left: tuple[Failure, ...]
    """What is where the sort put it, by its path, and why."""
    file: Path
    """What the undo file is called now."""


def safe_name(label: str) -> str:
    """A label as the name of a folder that any system takes: never empty, hidden or reserved, at most 255 bytes."""
    name = _UNSAFE.sub("_", composed(label)).strip(". ")
    if _RESERVED.match(name):
        name = "_" + name
    return name.encode()[:_LONGEST].decode(errors="ignore").strip(". ") or "_"


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Each label's folder; no two are equal, also where upper and lower case are."""
    names = {label: safe_name(label) for label in labels}
    taken = _Taken((UNCERTAIN, FAILED))
    # A label that is safe as it is keeps its name, whatever comes before it.
    chosen = {label: taken.free(names[label]) for label in sorted(names, key=lambda label: names[label] != label)}
    return {label: chosen[label] for label in names}


def plan(records: Iterable[Record], base: Path, into: Path, mode: Mode = "copy", labels: Iterable[str] = ()) -> Plan:
    """Where each image goes: to the folder of its label (the best of several), ``_uncertain`` or ``_failed``.

    Nothing is touched. An image that is listed twice is taken once, one that lies in ``into`` not at all, nor one whose
    bytes are in its folder already under its name.

    Args:
        records: the answers.
        base: the absolute folder that relative paths start from.
        into: the folder that gets the labels' folders.
        mode: how an image gets there.
        labels: in their order; those that answers name besides come after.
    """
    records = tuple(records)
    answers = (record.labels[0] for record in records if isinstance(record, Prediction) and record.labels)
    folders = folder_names(dict.fromkeys((*labels, *answers)))
    home = os.path.join(os.path.realpath(into), "")
    taken: dict[str, _Taken] = {}
    placings, missing, inside, there = [], [], 0, 0
    for place, record in _once(records, base).items():
        if place.startswith(home):
            inside += 1
            continue
        try:
            status = _image_status(place, mode)
        except (OSError, ValueError) as exc:
            missing.append(Failure(record.path, _no_file(record.path) or _reason(exc)))
            continue
        if isinstance(record, Failure) and suffix_of(record.path) in CONTAINER_SUFFIXES:
            missing.append(record)  # the archive, most of whose images may have been read
            continue
        folder = _folder(record, folders)
        if _same(place, into / folder / os.path.basename(place)):
            there += 1
            continue
        if folder not in taken:
            taken[folder] = _Taken(_listed(into / folder))
        name = taken[folder].free(*os.path.splitext(os.path.basename(place)))
        placings.append(Placing(record.path, folder, name, status.st_size, status.st_mtime_ns))
    return Plan(into, mode, base, folders, tuple(placings), tuple(missing), inside, there)


def _no_file(path: str) -> str | None:
    """Why an image of this name can be no file, if it cannot."""
    if video_of(path):
        return "a frame of a video: clipcls classify --video mean gives whole videos an answer"
    around = (path.rpartition("#")[0], *map(str, PurePath(path).parents))
    return NO_FILE if "://" in path or CONTAINER_SUFFIXES & set(map(suffix_of, around)) else None


@contextmanager
def carried_out(plan: Plan) -> Iterator[tuple[Path, Iterator[Placing | Failure]]]:
    """The undo file, which tells of the whole plan, and the plan's images, each placed when it is asked for.

    Raises:
        OutputError: ``into`` cannot be written to.
    """
    stream, file = _create(plan.into)
    with stream:
        with _told(file):
            lock(stream)
            folders = dict.fromkeys(each.folder for each in plan.placings)
            new = [folder for folder in folders if not os.path.isdir(plan.into / folder)]
            _append(stream, _Head(plan.mode, str(plan.base), new), *plan.placings)
            os.fsync(stream.fileno())
        yield file, _carry_out(plan, stream, _draft(file))


def undo(file: Path) -> Undone:
    """Everything back to where it was; what the person has changed since is left, and can be undone by a later call.

    A copy or link goes only where its image is still at the old place, so that no image is lost with it. Folders that
    the sort made go where they are empty. An undo that is cut off can be repeated.

    Raises:
        InputError: there is no undo file, or it is damaged.
        OutputError: the sort is still running, or the undo file cannot be renamed.
    """
    into, images, left = file.parent, 0, []
    with _opened(file) as stream:
        head, placings = _read(stream, file)
        for each in reversed(placings):
            try:
                images += _take_back(each, head, into, _draft(file))
            except OSError as exc:
                left.append(Failure(str(into / each.target), _reason(exc)))
        for folder in {each.folder for each in placings}:
            with suppress(OSError):
                (into / folder / _draft(file)).unlink(missing_ok=True)
        for folder in head.folders:
            with suppress(OSError):  # not empty, or gone
                (into / folder).rmdir()
    if left:
        return Undone(images, tuple(left), file)
    done = file.with_name(file.name.removesuffix(_UNDO) + _UNDONE)
    with _told(file):
        move(file, done)
    return Undone(images, (), done)


class _Taken:
    """The names in a folder; upper and lower case, composed and decomposed are one name, as on many disks they are."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(map(self._key, names))
        self._next: dict[str, int] = {}

    def free(self, stem: str, suffix: str = "") -> str:
        """``stem`` and ``suffix``, or the first of ``stem (2)``, ``stem (3)`` ... that is free; it is then taken."""
        wanted = self._key(stem + suffix)
        number = self._next.get(wanted, 1)
        while self._key(name := _numbered(stem, suffix, number)) in self._names:
            number += 1
        self._next[wanted] = number + 1
        self._names.add(self._key(name))
        return name

    @staticmethod
    def _key(name: str) -> str:
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _numbered(stem: str, suffix: str, number: int) -> str:
    end = suffix if number == 1 else f" ({number}){suffix}"
    while stem and len(os.fsencode(stem + end)) > _LONGEST:
        stem = stem[:-1]
    return stem + end


def _once(records: Iterable[Record], base: Path) -> dict[str, Record]:
    """Each image's first record, by where the image really lies, whatever links lead to its folder."""
    real: dict[str, str] = {}
    found: dict[str, Record] = {}
    for record in records:
        parent, name = os.path.split(os.path.join(base, record.path))
        if parent not in real:
            try:
                real[parent] = os.path.realpath(parent)
            except ValueError:  # a NUL, as in a list of paths that was taken apart wrongly
                real[parent] = parent
        found.setdefault(os.path.join(real[parent], name), record)
    return found


def _folder(record: Record, folders: dict[str, str]) -> str:
    if isinstance(record, Failure):
        return FAILED
    return folders[record.labels[0]] if record.labels else UNCERTAIN


def _same(source: str, target: Path) -> bool:
    """Whether the same bytes lie at both places; ``target`` need not be there."""
    try:
        return filecmp.cmp(source, target, shallow=False)
    except (OSError, ValueError):
        return False


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise OutputError(f"{_name(folder)} cannot be looked into: {_reason(exc)}; name another folder") from exc


def _image_status(path: str, mode: Mode) -> os.stat_result:
    """The status of a file that can be placed.

    Raises:
        OSError: it is not there, or is something else.
    """
    if mode == "move" and os.path.islink(path):
        raise OSError(
            errno.EINVAL, "a symbolic link, which can lead elsewhere once it is moved: copy it, or link to it"
        )
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return status


def _create(into: Path) -> tuple[IO[str], Path]:
    """A new undo file."""
    stem = f"clipcls-sort-{time.strftime('%Y%m%d-%H%M%S')}"
    with _told(into):
        into.mkdir(parents=True, exist_ok=True)
        taken = _Taken(_listed(into))
        while True:
            file = into / taken.free(stem, _UNDO)
            with suppress(FileExistsError):
                return file.open("x", encoding="utf-8", newline=""), file


def _append(stream: IO[str], *lines: _Head | Placing) -> None:
    for line in lines:
        text = json.dumps(asdict(line), ensure_ascii=False)
        # A path that is not UTF-8 holds lone surrogates; as JSON escapes they survive in a UTF-8 file.
        text = re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
        stream.write(text + "\n")
    stream.flush()


def _carry_out(plan: Plan, stream: IO[str], draft: str) -> Iterator[Placing | Failure]:
    for each in plan.placings:
        with _told(plan.into / each.folder):
            (plan.into / each.folder).mkdir(exist_ok=True)
            done = _placed(plan, each, stream, draft)
        yield done


def _placed(plan: Plan, placing: Placing, stream: IO[str], draft: str) -> Placing | Failure:
    """The image in its place, under another name where somebody has taken its own since it was planned.

    Raises:
        OSError: no further image could be placed either.
    """
    source, folder = os.path.join(plan.base, placing.source), plan.into / placing.folder
    taken: _Taken | None = None
    while True:
        try:
            _put(plan.mode, source, str(folder / placing.name), draft)
            return placing
        except FileExistsError:
            taken = taken or _Taken((*_listed(folder), placing.name))
            placing = replace(placing, name=taken.free(*os.path.splitext(os.path.basename(source))))
            _append(stream, placing)
        except OSError as exc:
            if exc.errno in _HOPELESS or not os.access(folder, os.W_OK | os.X_OK):
                raise
            return Failure(placing.source, _reason(exc))


def _put(mode: Mode, source: str, target: str, draft: str) -> None:
    """An image in its place.

    Raises:
        FileExistsError: there is something at ``target``.
        OSError: it cannot be put there; then it is where it was, and nothing is at ``target``.
    """
    _image_status(source, mode)
    if mode == "symlink":
        os.symlink(source, target)
    elif mode == "link":
        os.link(os.path.realpath(source), target)
    else:
        with _reserved(source, target):
            if mode == "copy":
                with _copied(source, target, draft, durable=False) as copy:
                    os.replace(copy, target)
            else:
                _move(source, target, draft)


@contextmanager
def _reserved(source: str, target: str) -> Iterator[None]:
    """An empty file that holds the name ``target``, until the image at ``source`` takes its place."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        yield
    except BaseException:
        with suppress(FileNotFoundError):
            if os.path.lexists(source) and os.path.getsize(target) == 0:
                os.unlink(target)
        raise


def _move(source: str, target: str, draft: str) -> None:
    """An image in the place of the empty file that holds its new name."""
    try:
        os.replace(source, target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        with _copied(source, target, draft, durable=True) as copy:
            move(copy, Path(target))
        try:
            os.unlink(source)
        except FileNotFoundError:  # somebody was faster, or a network disk is told twice: this is the only one left
            pass
        except OSError:
            os.unlink(target)
            raise


@contextmanager
def _copied(source: str, target: str, draft: str, *, durable: bool) -> Iterator[Path]:
    """A whole copy of an image, beside the place that it is for, to be moved there."""
    copy = Path(target).with_name(draft)
    copy.unlink(missing_ok=True)  # one that was cut off may be write-protected already
    try:
        shutil.copyfile(source, copy)
        if durable:
            with copy.open("rb+") as stream:
                os.fsync(stream.fileno())
        with suppress(OSError):  # a share of another system keeps no such times and permissions
            shutil.copystat(source, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _draft(file: Path) -> str:
    """What a run's copies are called until they are whole, one after the other."""
    return file.name.removesuffix(_UNDO) + ".partial"


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if file.name.endswith(_UNDONE):
        raise InputError(f"{_name(file)}: this sort has been undone already")
    try:
        stream = file.open("rb+")
    except OSError as exc:
        raise InputError(f"{_name(file)} cannot be read: {_reason(exc)}; name the file that the sort told of") from exc
    with stream:
        try:
            lock(cast("IO[str]", stream))
        except BlockingIOError as exc:
            raise OutputError(f"{_name(file)} is in use: wait for that sort, or another undo, to end") from exc
        yield stream


def _read(stream: IO[bytes], file: Path) -> tuple[_Head, list[Placing]]:
    """An undo file's head and images; what follows the last whole line was never begun.

    Raises:
        InputError: it is no undo file.
    """
    *lines, _ = stream.read().split(b"\n")
    if not lines:
        return _Head("copy", "", []), []
    try:
        first, *rest = map(json.loads, lines)
        head = _Head(**first)
        placings = {each["source"]: Placing(**each) for each in rest}  # a later line is for another name
        if head.format != _FORMAT or head.mode not in get_args(Mode) or not os.path.isabs(head.base):
            raise ValueError("another format")
        names = [*head.folders, *(name for each in placings.values() for name in (each.folder, each.name))]
        if any(name in ("", os.curdir, os.pardir) or os.path.basename(name) != name for name in names):
            raise ValueError("a place outside of its folder")
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise InputError(f"{_name(file)} is no undo file of this version of clipcls, or is damaged ({exc})") from exc
    return head, list(placings.values())


def _take_back(placing: Placing, head: _Head, into: Path, draft: str) -> bool:
    """One image back at its old place, or its copy or link gone.

    Returns:
        False where there was nothing to take back.

    Raises:
        OSError: it must stay, or cannot be taken back.
    """
    source, target = os.path.join(head.base, placing.source), str(into / placing.target)
    moved, at_source = head.mode == "move", os.path.lexists(source)
    if not os.path.lexists(target):
        if moved and not at_source:
            raise _stays(f"neither here nor at its old place {source}")
        return False
    if moved and not at_source:
        os.makedirs(os.path.dirname(source), exist_ok=True)
        with _reserved(target, source):
            _move(target, source, draft)
        return True
    if moved and _is_reserved(source, placing):
        _move(target, source, draft)
        return True
    if _leads_to(target, source) if head.mode == "symlink" else at_source and _is_spare(target, source, placing):
        os.unlink(target)
        return not moved
    raise _stays(f"its old place {source} is taken" if moved else f"changed since it was put here, or {source} was")


def _is_reserved(source: str, placing: Placing) -> bool:
    """Whether an old place holds the empty file with which an undo that was cut off had reserved it."""
    status = os.lstat(source)
    return status.st_size == 0 and status.st_mtime_ns != placing.mtime_ns


def _leads_to(target: str, source: str) -> bool:
    return os.path.islink(target) and os.readlink(target) == source


def _is_spare(target: str, source: str, placing: Placing) -> bool:
    """Whether no image is lost with ``target``: it is at ``source`` too, or was cut off on its way from there."""
    if os.path.realpath(source) == os.path.realpath(target):  # the person has put a link in the place of one of them
        return False
    there, here = os.stat(source), os.stat(target)
    if os.path.samestat(there, here):
        return True
    planned = (placing.size, placing.mtime_ns)
    if planned == (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns):
        return True
    with Path(source).open("rb") as whole, Path(target).open("rb") as part:
        while block := part.read(_BLOCK):
            if block != whole.read(len(block)):
                return False
    return True


def _stays(reason: str) -> OSError:
    return OSError(errno.EEXIST, reason)


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """Tells what the system has against writing to a place."""
    try:
        yield
    except OSError as exc:
        raise OutputError(f"{_name(place)} cannot be written to: {_reason(exc)}; make room, or name another") from exc


def _reason(exc: OSError | ValueError) -> str:
    if isinstance(exc, OSError):
        if exc.errno == errno.EXDEV:
            return "on another disk, where no hard link leads; copy it, or use a symbolic link"
        return exc.strerror or str(exc)
    return str(exc)


def _name(path: Path) -> str:
    return printable(str(path))
