"""Labels as keywords in XMP sidecars, where photo programs find them; the pictures themselves are not touched.

Adobe's programs, Capture One and others read ``photo.xmp`` (Adobe's beside RAW files only: what they know of a JPEG
they keep inside it), digiKam and darktable ``photo.jpg.xmp``, Immich either. Keywords go to ``dc:subject``, those of
labels with a group also to ``lr:hierarchicalSubject`` as ``动物|猫``, and to ``digiKam:TagsList`` where there is one,
since digiKam then looks no further. What a run added is remembered in the sidecar, so that the next run replaces it,
and nothing that a person wrote.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from clipcls.errors import OutputError
from clipcls.labels import Label
from clipcls.records import Prediction, Record
from clipcls.sinks.base import ResultSink
from clipcls.sinks.cells import printable
from clipcls.sinks.durable import write_whole
from clipcls.sources import CAMERA_SUFFIXES, SUFFIXES
from clipcls.video import VIDEO_SUFFIXES, video_of

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_OURS = "http://clipcls/ns/1.0/"
_EMPTY = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="clipcls">
 <rdf:RDF xmlns:rdf="{_RDF}">
 </rdf:RDF>
</x:xmpmeta>
"""
_START_TAG = re.compile(rb"""<[^"'>]*(?:"[^"]*"[^"'>]*|'[^']*'[^"'>]*)*>""")
_TOLD = 5
"""Sidecars that could not be written and are told of one by one."""

_log = logging.getLogger("clipcls")


@dataclass(frozen=True, slots=True)
class _Property:
    """One of the lists that programs keep keywords in."""

    prefix: str
    uri: str
    name: str
    separator: str | None = None
    """Between a group and a label; without one the list holds plain labels."""
    kind: str = "Bag"
    always: bool = True
    """Whether a sidecar without it gets it."""
    grouped: bool = False
    """Whether labels without a group are left out."""

    def words(self, labels: Iterable[Label]) -> list[str]:
        """What stands in this list for some labels."""
        named = [
            (f"{label.group}{self.separator}" if self.separator and label.group else "") + (label.display or label.name)
            for label in labels
            if label.group or not self.grouped
        ]
        return list(dict.fromkeys(map(printable, named)))

    def memory(self) -> _Property:
        """Our own list of what we put into this one."""
        return _Property("clipcls", _OURS, self.name)


_PROPERTIES = (
    _Property("dc", "http://purl.org/dc/elements/1.1/", "subject"),
    _Property("lr", "http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject", "|", grouped=True),
    _Property("digiKam", "http://www.digikam.org/ns/1.0/", "TagsList", "/", "Seq", always=False),
)


class XmpSink(ResultSink):
    """Another sink, before which each image's labels are written into its sidecar.

    An uncertain image loses what an earlier run wrote. A frame of a video has no sidecar, nor has an image that is no
    file: a table's row, an archive's member, something on the web. A sidecar that cannot be written is told of, and
    costs neither the record nor the run.

    Args:
        inner: the other sink.
        labels: the classifier's.
        full: whether sidecars are called ``photo.jpg.xmp``. They are in any case where two images of a folder share
            a name but for the suffix, such as a RAW file and its JPEG: whose ``photo.xmp`` is, nobody could tell.
    """

    def __init__(self, inner: ResultSink, labels: Iterable[Label], *, full: bool) -> None:
        self._inner, self._full = inner, full
        self._labels = {label.column: label for label in labels}
        self._base = Path.cwd()
        self._stems = lru_cache(maxsize=16)(_stems)
        self._refused = self._no_files = 0
        self.already_complete, self.failed_before = inner.already_complete, inner.failed_before

    @property
    def done(self) -> Counter[str]:
        """See ``ResultSink.done``."""
        return self._inner.done

    @property
    def partial(self) -> Path | None:
        """See ``ResultSink.partial``."""
        return self._inner.partial

    def __enter__(self) -> XmpSink:
        self._inner.__enter__()
        return self

    def write(self, record: Record) -> None:
        """See ``Sink.write``."""
        if isinstance(record, Prediction) and not video_of(record.path):
            self._keep(self._base / record.path, [self._labels[column] for column in record.labels])
        self._inner.write(record)

    def _keep(self, image: Path, labels: Sequence[Label]) -> None:
        if not image.is_file():
            self._no_files += 1
            return
        path = sidecar(image, full=self._full or self._stems(image.parent)[image.stem.lower()] > 1)
        try:
            write_keywords(path, labels)
        except OutputError as exc:
            self._refused += 1
            if self._refused <= _TOLD:
                _log.warning("%s", exc)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise OutputError where sidecars could not be written; the other sink is closed before."""
        self._inner.__exit__(kind, error, trace)
        if self._no_files:
            _log.warning(
                "images without a sidecar: %d; rows of tables, members of archives and addresses have none",
                self._no_files,
            )
        if error is None and self._refused:
            raise OutputError(
                f"{self._refused} sidecar{'s' * (self._refused > 1)} could not be written, for the reasons above; "
                "all other results are complete"
            )


def sidecar(image: Path, *, full: bool) -> Path:
    """Where an image's keywords belong: ``photo.jpg.xmp`` if ``full`` or if only that is there, else ``photo.xmp``."""
    long, short = image.with_name(image.name + ".xmp"), image.with_suffix(".xmp")
    return long if full or (long.exists() and not short.exists()) else short


def _stems(folder: Path) -> Counter[str]:
    """How many images of a folder share each name without its suffix."""
    kinds = SUFFIXES | CAMERA_SUFFIXES | VIDEO_SUFFIXES
    try:
        split = [os.path.splitext(name) for name in os.listdir(folder)]
    except OSError:  # may be entered, but not read
        return Counter()
    return Counter(stem.lower() for stem, suffix in split if suffix.lower() in kinds)


def write_keywords(path: Path, labels: Sequence[Label]) -> None:
    """Have a sidecar's keywords hold some labels, and no others that an earlier run put there.

    The rest of the file stays as it is, to the byte; a file that holds the labels already is not written, and without
    labels none is made.

    Raises:
        OutputError: it cannot be read, understood or written; then it is as it was.
    """
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        if not labels:
            return
        before = _EMPTY.encode()
    except OSError as exc:
        raise OutputError(f"{printable(str(path))} cannot be read: {exc.strerror or exc}") from exc
    try:
        after = with_keywords(before, labels)
        if after != before:
            write_whole(path.resolve(), after.decode())
    except OSError as exc:
        raise OutputError(f"{printable(str(path))} cannot be written: {exc.strerror or exc}") from exc
    except _Unclear as exc:
        raise OutputError(f"{printable(str(path))} is left as it was: {exc}; repair it, or move it away") from exc


class _Unclear(Exception):
    """A sidecar that could lose something, were it changed; the text says why."""


@dataclass(slots=True)
class _Element:
    """An element of a parsed file, and where it stands in its bytes."""

    name: str
    """Namespace, a space, and the name in it."""
    attributes: dict[str, str]
    start: int
    opened: int
    """Where its start tag ends."""
    closed: int = 0
    """Where its end tag begins."""
    end: int = 0
    text: str = ""
    children: list[_Element] = field(default_factory=list)

    def below(self, uri: str, *names: str) -> list[_Element]:
        """The children of some names."""
        return [child for child in self.children if child.name in [f"{uri} {name}" for name in names]]


def with_keywords(data: bytes, labels: Sequence[Label]) -> bytes:
    """A sidecar's bytes, with some labels in its keywords instead of those that an earlier run put there.

    Raises:
        _Unclear: it is no XMP in UTF-8, or keeps keywords in a form of its own.
    """
    rdf = _parsed(data)
    edits: list[tuple[int, int, str]] = []
    missing: list[tuple[_Property, list[str]]] = []

    def change(known: _Property, lists: list[_Element], drop: Iterable[str], add: list[str]) -> None:
        edits.extend(edit for each in lists for edit in _removed(data, each, set(drop)))
        if add and lists:
            edits.append(_added(data, lists[0], add))
        elif add:
            missing.append((known, add))

    for known in _PROPERTIES:
        lists, remembered = _lists(rdf, known), _lists(rdf, known.memory())
        there, ours = _words(lists), _words(remembered)
        wanted = known.words(labels) if lists or known.always else []
        add = [word for word in wanted if word not in there]
        change(known, lists, [word for word in ours if word not in wanted], add)
        kept = [word for word in wanted if word in ours or word in add]
        change(
            known.memory(),
            remembered,
            [word for word in ours if word not in kept],
            [word for word in kept if word not in ours],
        )
    if missing:
        edits.append((rdf.closed, rdf.closed, _described(rdf, missing)))
    for start, end, text in sorted(edits, reverse=True):  # from the end, so that the places before stay right
        data = data[:start] + text.encode() + data[end:]
    _parsed(data)
    return data


def _parsed(data: bytes) -> _Element:
    """The ``rdf:RDF`` of a sidecar."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    root = _Element("", {}, 0, 0)
    stack = [root]

    def start(name: str, attributes: dict[str, str]) -> None:
        at = parser.CurrentByteIndex
        tag = _START_TAG.match(data, at)
        if tag is None:
            raise _Unclear("it is not in UTF-8")
        element = _Element(name, attributes, at, tag.end())
        stack[-1].children.append(element)
        stack.append(element)

    def end(name: str) -> None:
        element = stack.pop()
        empty = data[element.opened - 2 : element.opened] == b"/>"
        element.closed = element.opened if empty else parser.CurrentByteIndex
        element.end = element.opened if empty else data.index(b">", element.closed) + 1

    def text(found: str) -> None:
        stack[-1].text += found

    def declared(version: str, encoding: str | None, standalone: int) -> None:
        if encoding and encoding.lower() != "utf-8":
            raise _Unclear("it is not in UTF-8")

    def doctype(*_: object) -> None:
        raise _Unclear("it declares a document type, which XMP has no use for")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, doctype
    parser.XmlDeclHandler = declared
    try:
        data.decode()
        parser.Parse(data, True)
    except UnicodeDecodeError as exc:
        raise _Unclear("it is not in UTF-8") from exc
    except expat.ExpatError as exc:
        raise _Unclear(f"it is no sound XML (line {exc.lineno}: {expat.ErrorString(exc.code)})") from exc
    found = [each for top in root.children for each in [top, *top.children] if each.name == f"{_RDF} RDF"]
    if len(found) != 1 or found[0].closed == found[0].opened:
        raise _Unclear("it holds no XMP")
    return found[0]


def _lists(rdf: _Element, known: _Property) -> list[_Element]:
    """The lists that hold a property; one, unless somebody has written it twice."""
    lists = []
    for description in rdf.below(_RDF, "Description"):
        if f"{known.uri} {known.name}" in description.attributes:
            raise _Unclear(f"its {known.prefix}:{known.name} is no list")
        for element in description.below(known.uri, known.name):
            inside = element.below(_RDF, "Bag", "Seq", "Alt")
            if len(inside) != 1:
                raise _Unclear(f"its {known.prefix}:{known.name} is no list")
            lists += inside
    return lists


def _items(element: _Element) -> list[_Element]:
    return element.below(_RDF, "li")


def _words(lists: Iterable[_Element]) -> dict[str, None]:
    return {item.text: None for each in lists for item in _items(each) if not item.children}


def _removed(data: bytes, listed: _Element, words: set[str]) -> Iterator[tuple[int, int, str]]:
    """The edits that take words out of a list, each with the white space before it."""
    for item in _items(listed):
        if item.text in words and not item.children:
            yield len(data[: item.start].rstrip()), item.end, ""


def _added(data: bytes, listed: _Element, words: Sequence[str]) -> tuple[int, int, str]:
    """The edit that puts words at the end of a list, under the last one there."""
    tag = data[listed.start + 1 : listed.opened].split()[0].rstrip(b"/>").decode()
    prefix = tag.rpartition(":")[0]
    li = f"{prefix}:li" if prefix else "li"
    items = _items(listed)
    at = items[-1].end if items else listed.opened
    before = items[-1].start if items else listed.opened
    space = data[len(data[:before].rstrip()) : before].decode()
    text = "".join(f"{space}<{li}>{escape(word)}</{li}>" for word in words)
    if listed.opened == listed.closed and data[listed.opened - 2 : listed.opened] == b"/>":  # <rdf:Bag/>
        return listed.opened - 2, listed.opened, f">{text}</{tag}>"
    return at, at, text


def _described(rdf: _Element, missing: Iterable[tuple[_Property, list[str]]]) -> str:
    """An element that brings properties of which there is nothing yet, and the namespaces it needs."""
    about = next((each.attributes.get(f"{_RDF} about", "") for each in rdf.below(_RDF, "Description")), "")
    spaces = {"rdf": _RDF} | {known.prefix: known.uri for known, _ in missing}
    lines = [f" <rdf:Description rdf:about={quoteattr(about)}"]
    lines += [f"    xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in spaces.items()]
    lines[-1] += ">"
    for known, words in missing:
        name = f"{known.prefix}:{known.name}"
        items = [f"     <rdf:li>{escape(word)}</rdf:li>" for word in words]
        lines += [f"   <{name}>", f"    <rdf:{known.kind}>", *items, f"    </rdf:{known.kind}>", f"   </{name}>"]
    return "\n".join([*lines, "  </rdf:Description>", " "])
