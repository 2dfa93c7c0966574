"""The text files that people write, read: labels, templates, settings; and new ones written beside them."""

from __future__ import annotations

import codecs
import json
import logging
import math
import os.path
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, Literal, get_args, get_origin, get_type_hints

from clipcls.errors import OutputError, UsageError

logger = logging.getLogger("clipcls")

_LARGEST = 16 << 20
"""Bytes; ten thousand labels take a hundredth of it."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PLACE = re.compile(r"line (\d+),? column (\d+)")


class FileFault(UsageError):
    """A text file that cannot be understood; ``line`` and ``column`` count from 1."""

    def __init__(self, path: Path, reason: str, line: int | None = None, column: int = 1) -> None:
        reason = " ".join(reason.split())
        super().__init__(f"{path}: {reason}" if line is None else f"{path}, line {line}: {reason}")
        self.reason, self.line, self.column = reason, line or 1, column


def delimiter_of(text: str) -> str:
    """What separates the fields of a CSV, told by its first line: Excel writes semicolons in half of Europe."""
    first = text.partition("\n")[0]
    return next((mark for mark in ",;\t" if mark in first), ",")


def read_text(path: Path, what: str, largest: int | None = None) -> str:
    """A text file of a person's: UTF-8 with or without a byte-order mark, UTF-16, or GBK as Chinese Windows writes it.

    Its lines end with a line feed, however the file ends them.

    Args:
        path: the file.
        what: its content, as an error names it.
        largest: bytes at most; None means 16 MB.

    Raises:
        UsageError: the file cannot be read, is too large or is no text.
    """
    largest = _LARGEST if largest is None else largest
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        cause = getattr(exc, "strerror", None) or exc
        raise UsageError(f"cannot read {what} from {path}: {cause}; name a text file of {what}") from exc
    if len(data) > largest:
        raise FileFault(path, f"larger than {largest >> 20} MB; name a text file of {what}")
    text = "\0" if b"\0" in data and not data.startswith(_UTF16) else _decode(data, path)
    if "\0" in text:
        raise FileFault(path, f"a binary file, not text; name a text file of {what}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_existing(path: Path) -> None:
    """Refuse a file that is to be new before any work is done.

    Raises:
        UsageError: there is something of that name.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} exists and stays as it is: name another file, or move it away")


def write_new_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that does not exist; folders above it are made.

    Raises:
        UsageError: it exists.
        OutputError: it cannot be written.
    """
    with new_file(path) as file:
        file.write(text.encode())


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that does not exist, to write to; folders above it are made. The errors are ``write_new_text``'s.

    Where writing fails, nothing is left of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            try:
                yield file
            except BaseException:
                path.unlink()
                raise
    except (OSError, ValueError) as exc:
        if isinstance(exc, FileExistsError) and path.parent.is_dir():
            raise UsageError(f"{path} exists and stays as it is: name another file, or move it away") from exc
        raise OutputError(f"{path} cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as exc:
        text = _as_gbk(data)
        if text is None:
            before = exc.object[: exc.start].decode(exc.encoding).removeprefix("\ufeff")
            advice = "not UTF-8, UTF-16 or GBK text; save the file as UTF-8 and try again"
            raise FileFault(path, advice, *place_of(before, len(before))) from exc
        logger.info("%s is not UTF-8; read as GBK", path)
        return text


def place_of(text: str, at: int) -> tuple[int, int]:
    """Line and column of an offset in a text, both counted from 1."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _as_gbk(data: bytes) -> str | None:
    """The bytes as GBK (by its superset GB 18030), if they make Chinese text and not some other encoding's letters."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return None
    foreign = [char for char in text if not char.isascii()]
    common = "".join(foreign).encode("gb2312", "ignore")  # two bytes a character in everyday use
    return text if len(common) >= len(foreign) else None


def parse_structured(text: str, path: Path) -> Any:
    """What a ``.toml``, ``.json``, ``.yaml`` or ``.yml`` file holds: dicts, lists, strings and numbers.

    Raises:
        FileFault: it is not valid.
    """
    match path.suffix.lower():
        case ".toml":
            return _parse_toml(text, path)
        case ".json":
            return _parse_json(text, path)
        case _:
            return _parse_yaml(text, path)


def _parse_toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        place = _PLACE.search(str(exc))
        line, column = (int(place[1]), int(place[2])) if place else place_of(text, len(text))
        reason = re.sub(r" \(at .*\)$", "", str(exc))
        raise FileFault(path, f"not valid TOML: {reason}", line, column) from exc
    except (RecursionError, ValueError) as exc:
        raise FileFault(path, f"not valid TOML: {_beyond(exc)}") from exc


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise FileFault(path, f"not valid JSON: {exc.msg}", exc.lineno, exc.colno) from exc
    except (RecursionError, ValueError) as exc:
        raise FileFault(path, f"not valid JSON: {_beyond(exc)}") from exc


def _beyond(exc: Exception) -> str:
    return "nested too deeply" if isinstance(exc, RecursionError) else "a number has too many digits"


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise FileFault(path, f"not valid YAML: {exc.problem}", line, column) from exc
    except Exception as exc:  # of values that are none of their kind, such as !!bool x, it raises what comes
        cause = _beyond(exc) if isinstance(exc, RecursionError) else str(exc)[:100] or type(exc).__name__
        raise FileFault(path, f"not valid YAML: {cause}") from exc


def fits(value: Any, kind: Any) -> bool:
    """Whether what was read is of a type, as a dataclass's annotations name it; a float is finite, and may be whole.

    Of a dataclass every field is looked at.
    """
    parts = get_args(kind)
    match get_origin(kind):
        case None if kind is Any:
            return True
        case None if kind is float:
            return type(value) in (int, float) and math.isfinite(value)
        case None if isinstance(kind, type) and is_dataclass(kind):
            return isinstance(value, kind) and all(
                fits(getattr(value, name), each) for name, each in get_type_hints(kind).items()
            )
        case None:
            return type(value) is kind
        case origin if origin is Literal:
            return value in parts
        case origin if origin is UnionType:
            return any(fits(value, part) for part in parts)
        case origin if origin is dict:
            return isinstance(value, Mapping) and all(fits(item, parts[1]) for item in value.values())
        case _:
            return isinstance(value, tuple) and all(fits(item, parts[0]) for item in value)
