"""A page as HTML: one file that asks nothing of the network, whatever the labels and file names hold."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipcls import __version__
from clipcls.errors import OutputError
from clipcls.report.page import Item, Page
from clipcls.sinks.cells import printable, rounded, well_formed
from clipcls.sinks.durable import move

_BLOCK = 256
"""Pictures whose thumbnails lie in one block of the page; the browser reads a block when it is scrolled to."""
_ROW = 250
"""Bytes a picture takes beside its thumbnail, about."""

Source = Callable[[int, bytes], str]
"""Where a thumbnail, with the number of those before it, is to be had: a URL."""


def render(page: Page, source: Source | None = None) -> Iterator[str]:
    """The page, piece by piece.

    Nothing that a label or a file name holds is ever markup: the template escapes what it is given, data lies in
    JSON without a ``<``, the script writes it as text only, and the browser is told to run no other script.

    Args:
        page: what to show.
        source: gives a thumbnail's URL; without it thumbnails are part of the page.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    style, script = _asset("style.css"), _asset("page.js")
    yield from environment.from_string(_asset("page.html.j2")).generate(
        policy=_policy(style, script, outside=source is not None),
        style=Markup(style),
        script=Markup(script),
        title=well_formed(page.title),
        lang=page.lang or "en",
        page=_clean(_facts(page)),
        blocks=_blocks(page, source or _inline),
        version=__version__,
    )


def write(page: Page, path: Path, *, overwrite: bool = False, thumbnails: Path | None = None) -> int:
    """Writes the page, whole or not at all.

    Args:
        page: what to show.
        path: the file.
        overwrite: whether what is there may be replaced.
        thumbnails: a folder for the thumbnails, which the page then links to; without it they are part of the page.

    Returns:
        The page's size in bytes.

    Raises:
        OutputError: there is something already, or it cannot be written.
    """
    check_page(path, overwrite=overwrite, thumbnails=thumbnails)
    draft = path.with_name(path.name + ".partial")
    with _told(path):
        try:
            with draft.open("w", encoding="utf-8", newline="") as stream:
                stream.writelines(render(page, _beside(path, thumbnails) if thumbnails else None))
                stream.flush()
                os.fsync(stream.fileno())
            size = draft.stat().st_size
            move(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return size


def check_page(path: Path, *, overwrite: bool = False, thumbnails: Path | None = None) -> None:
    """Refuses what could not be written, or would be lost, before any work is done.

    Raises:
        OutputError: there is something already, or it cannot be written.
    """
    name = _name(path)
    if not path.parent.is_dir():
        raise OutputError(f"{name}: there is no folder {_name(path.parent)}; create it first")
    if path.is_dir():
        raise OutputError(f"{name} is a folder; name a file in it, such as {_name(path / 'report.html')}")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{name} exists: --overwrite replaces it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{name}: the folder {_name(path.parent.absolute())} cannot be written to")
    if thumbnails is None or not os.path.lexists(thumbnails):
        return
    if not thumbnails.is_dir():
        raise OutputError(f"{_name(thumbnails)} is no folder; name another one for the thumbnails")
    if any(thumbnails.iterdir()) and not overwrite:
        raise OutputError(f"{_name(thumbnails)} is not empty: --overwrite replaces the thumbnails in it")


def expected_size(some: Sequence[Item], count: int) -> int:
    """About how many bytes a page of so many pictures has, going by some of them."""
    thumbnails = sum(len(item.thumbnail or b"") for item in some) / max(len(some), 1)
    return int(count * (thumbnails * 4 / 3 + _ROW))


def link(target: Path, page: Path) -> str:
    """A relative, percent-encoded link from a page to a file or folder; empty where none leads there.

    It begins with a dot, so that no name can make it a script or another site.
    """
    try:
        relative = os.path.relpath(target.absolute(), page.absolute().parent)
    except ValueError:  # another drive
        return ""
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


def _asset(name: str) -> str:
    return files("clipcls.report").joinpath(name).read_text("utf-8")


def _policy(style: str, script: str, *, outside: bool) -> str:
    """What the browser may load and run: this script, this style, these pictures."""
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    pictures = "data: 'self' file:" if outside else "data:"  # of a page on disk, 'self' may be nothing
    return (
        f"default-src 'none'; img-src {pictures}; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _facts(page: Page) -> dict[str, Any]:
    """What the page knows besides its pictures."""
    truth = page.truth
    return {
        "lang": page.lang,
        "labels": page.labels,
        "about": page.about,
        "threshold": page.threshold,
        "multi": page.multi_label,
        "measure": page.measure,
        "block": _BLOCK,
        "truth": truth
        and {
            "labels": truth.labels,
            "figures": [(each.name, each.value, each.low, each.high) for each in truth.figures],
            "confusion": truth.confusion,
            "bins": truth.bins,
            "probe": truth.probe and {"zeroShot": truth.probe.zero_shot, "points": truth.probe.points},
        },
    }


def _blocks(page: Page, source: Source) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """The pictures' rows and their thumbnails' URLs, in blocks."""
    places = itertools.count()
    items = iter(page.items)
    while block := list(itertools.islice(items, _BLOCK)):
        urls = [source(next(places), item.thumbnail) if item.thumbnail else "" for item in block]
        yield [_row(item, page.threshold) for item in block], urls


def _row(item: Item, threshold: float) -> dict[str, Any]:
    """One picture's facts, short of those that it lacks."""
    best = item.ranked[0].probability if item.ranked else 0.0
    facts = {
        "path": item.path,
        "answer": item.answer,
        "ranked": [(each.label, rounded(each.probability), rounded(each.cosine)) for each in item.ranked],
        # Not for the threshold, but for a margin or the background: no slider changes that.
        "held": item.status == "uncertain" and best >= threshold,
        "truth": item.truth,
        "link": item.link,
    }
    failed = {"error": _clean(item.error)} if item.status == "error" else {}
    return {name: _clean(value) for name, value in facts.items() if value} | failed


def _clean(value: Any) -> Any:
    """JSON's values with text that UTF-8 can hold."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {key: _clean(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(each) for each in value]
    return value


def _inline(_: int, thumbnail: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(thumbnail).decode()


def _beside(path: Path, folder: Path) -> Source:
    """Puts thumbnails into a folder, made anew with the first; their URLs start from the page's own folder."""
    start = link(folder, path) or folder.absolute().as_uri()

    def put(at: int, thumbnail: bytes) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{at + 1:06}.webp"
        (folder / name).write_bytes(thumbnail)
        return f"{start}/{name}"

    return put


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tells what the system has against writing the page."""
    try:
        yield
    except OSError as exc:
        place = _name(Path(os.fsdecode(exc.filename))) if exc.filename else _name(path)
        raise OutputError(f"{place} cannot be written: {exc.strerror or exc}; name another place") from exc


def _name(path: Path) -> str:
    return printable(str(path))
