"""Reading the small text files that people write: labels, templates, settings."""

from __future__ import annotations

from pathlib import Path

from clipcls.errors import UsageError


def read_text(path: Path, what: str) -> str:
    """A small UTF-8 text file, with or without a byte-order mark; ``what`` names its content in an error.

    Raises:
        UsageError: the file cannot be read or is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise UsageError(f"cannot read {what} from {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8 and try again") from exc
