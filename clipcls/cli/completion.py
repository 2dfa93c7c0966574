"""What the shell offers for the values of options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipcls.library import Kind


def completed(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What the shell offers for the beginning of a value; nothing where the names cannot be read just now."""

    def complete(incomplete: str) -> list[str]:
        with suppress(Exception):
            return [name for name in names() if name.startswith(incomplete)]
        return []

    return complete


def _models() -> Iterable[str]:
    from clipcls.encoders.catalogue import entries

    return [entry.alias for entry in entries()]


def _sets(kind: Kind) -> Callable[[], Iterable[str]]:
    def names() -> Iterable[str]:
        from clipcls.library import set_names

        return set_names(kind)

    return names


a_model, a_prompt_set, a_label_set = (completed(names) for names in (_models, _sets("prompts"), _sets("labels")))
