"""Images whose labels are known: a folder with one folder a label."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipcls.errors import InputError, UsageError
from clipcls.labels import Label, composed, label_set
from clipcls.pipeline import Embedded, Embedder
from clipcls.records import Failure, ImageRef
from clipcls.sources import ImageSource

Watch = Callable[[Iterable[Embedded | Failure]], Iterable[Embedded | Failure]]


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Embeddings of images, and which label each has."""

    labels: tuple[Label, ...]
    paths: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    """float32 [n, D], unit rows."""
    truth: npt.NDArray[np.intp]
    """Each image's label, by its place in ``labels``: [n]."""
    failures: tuple[Failure, ...] = ()
    """Images that could not be read; they are in none of the other fields."""


class LabelledFolder:
    """A folder that holds one folder a label, to any depth; hidden ones and files beside them are left out.

    Args:
        folder: the folder.
        labels: what the images may show; each folder must have the name, the display name, a synonym or the id of one
            of them, compared in Unicode's composed form. Without them each folder's name is a label, with spaces for
            its underscores.

    Raises:
        InputError: there is no such folder, or it holds no folders.
        UsageError: a folder is none of the labels'.
    """

    def __init__(self, folder: str | os.PathLike[str], labels: Sequence[Label] | None = None) -> None:
        self._root = Path(folder)
        names = _folder_names(self._root)
        self.labels = label_set(_labels_of(names) if labels is None else labels)
        place = _places(self.labels)
        if unknown := [name for name in names if _key(name) not in place]:
            shown = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
            raise UsageError(f"{folder}: folders that are none of the labels: {shown}; add them, or move them away")
        self._folders = [(place[_key(name)], self._root / name) for name in names]

    def count(self) -> int:
        """How many images there are now."""
        return sum(ImageSource([folder]).count() or 0 for _, folder in self._folders)

    def embed(self, embedder: Embedder, watch: Watch = lambda images: images) -> LabelledImages:
        """All images' embeddings; ``watch`` sees each as it comes, and hands it on.

        Raises:
            InputError: none of the images can be read, or only one label has any.
        """
        owners: list[int] = []
        blocks = embedder.images(self._refs(owners))
        paths, vectors, truth, failures = [], [], [], []
        for at, image in enumerate(watch(image for block in blocks for image in block)):
            if isinstance(image, Failure):
                failures.append(image)
                continue
            paths.append(image.path)
            vectors.append(image.vector)
            truth.append(owners[at])
        if len(set(truth)) < 2:
            raise InputError(f"{self._root}: it needs images of two labels or more, in one folder a label")
        return LabelledImages(self.labels, tuple(paths), np.stack(vectors), np.array(truth, np.intp), tuple(failures))

    def _refs(self, owners: list[int]) -> Iterator[ImageRef]:
        """Every image; its label is added to ``owners``."""
        for label, folder in self._folders:
            for ref in ImageSource([folder]):
                owners.append(label)
                yield ref


def _folder_names(root: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as exc:
        raise InputError(f"{root}: {exc.strerror or exc}; name a folder that holds one folder a label") from exc
    if not names:
        raise InputError(f"{root}: no folders in it; it needs one folder a label, with that label's images")
    return names


def _labels_of(names: Sequence[str]) -> list[Label]:
    """A label a folder; one whose words another folder has too keeps its underscores."""
    words = [name.replace("_", " ") for name in names]
    taken = Counter(map(_key, words))
    return [
        Label(spaced, display=name) if spaced != name and taken[_key(spaced)] == 1 else Label(name)
        for name, spaced in zip(names, words, strict=True)
    ]


def _key(name: str) -> str:
    """What two names have in common that are the same."""
    return composed(" ".join(name.split()))


def _places(labels: Sequence[Label]) -> dict[str, int]:
    """Each label's place by every name that its folder may have; where two share one, the first has it."""
    found: dict[str, int] = {}
    for key in ("id", "display", "name"):
        for at, label in enumerate(labels):
            if value := getattr(label, key):
                found.setdefault(_key(value), at)
    for at, label in enumerate(labels):
        for synonym in label.synonyms:
            found.setdefault(_key(synonym), at)
    return found
