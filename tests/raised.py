"""What clipcls raises or tells that no test has made it raise or tell: ``python tests/raised.py``, after coverage.

It reads what ``coverage run -m pytest`` and ``coverage combine`` have left, and ends with 1 if there is anything. A
statement counts as a whole: which of several words it chose cannot be seen.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import NamedTuple

from coverage import Coverage, CoverageData
from test_language import PACKAGE, Messages, Source


class Statement(NamedTuple):
    """A statement that raises, or holds a message."""

    source: Source
    first: int
    last: int
    raises: bool
    text: str

    def ran(self, data: CoverageData) -> bool:
        lines = data.lines(str(PACKAGE / self.source.name)) or []
        return not set(lines).isdisjoint(range(self.first, self.last + 1))

    def __str__(self) -> str:
        return f"clipcls/{self.source.name}:{self.first}: {self.text}"


def statements() -> Iterator[Statement]:
    """Every one in the package, in its order."""
    messages = Messages()
    for source in messages.sources:
        told = {line: key for (name, line), key in messages.places.items() if name == source.name}
        for node, first, last in extents(source.tree):
            raises = isinstance(node, ast.Raise) and node.exc is not None
            key = next((told[line] for line in range(first, last + 1) if line in told), None)
            if raises or key is not None:
                yield Statement(source, first, last, raises, key or ast.unparse(node))


def extents(tree: ast.Module) -> Iterator[tuple[ast.stmt, int, int]]:
    """Each statement's first and last line; of one that holds others, those before the first of these."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = [each.lineno for each in ast.walk(node) if isinstance(each, ast.stmt) and each is not node]
            yield node, node.lineno, min(inner, default=(node.end_lineno or node.lineno) + 1) - 1


def main() -> int:
    """The exit code."""
    coverage = Coverage()
    coverage.load()
    data = coverage.get_data()
    found = sorted(statements(), key=lambda each: (each.source.name, each.first))
    missing = [each for each in found if not each.ran(data)]
    for each in missing:
        print(each)
    raising = sum(each.raises for each in found)
    print(f"{raising} statements raise and {len(found) - raising} more tell something; {len(missing)} never ran")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
