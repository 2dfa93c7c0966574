"""Opens image references as a run does: from another process, where they came pickled."""

from __future__ import annotations

import pickle

import pytest

from clipcls.records import ImageRef


def data(ref: ImageRef) -> bytes:
    """What is behind it."""
    with pickle.loads(pickle.dumps(ref)).open() as file:
        return bytes(file.read())


def error(ref: ImageRef) -> str:
    """Why it cannot be opened, in one line."""
    with pytest.raises(OSError) as caught:
        ref.open()
    text = str(caught.value.strerror or caught.value)
    assert "\n" not in text
    return text
