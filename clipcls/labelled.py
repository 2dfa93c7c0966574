"""Images whose labels are known: a folder with one folder a label, or a table of paths and labels."""

from __future__ import annotations

import csv
import io
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipcls.errors import InputError, UsageError
from clipcls.labels import Label, composed, label_set
from clipcls.measures import stratified
from clipcls.pipeline import Embedded, Embedder
from clipcls.records import Failure, ImageRef
from clipcls.sources import ImageSource, file_ref
from clipcls.textfile import FileFault, delimiter_of, read_text

_PATH_COLUMNS = ("path", "image", "file")
_LARGEST_TABLE = 1 << 30

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

    def halves(self, seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """The places of the images in two halves, each with its share of every label, at random.

        Images with the same vector, such as copies, are in the same half: what is learned from the one must not be
        judged by the other.
        """
        _, first, same = np.unique(self.vectors, axis=0, return_index=True, return_inverse=True)
        halves = stratified(first, self.truth, 2, seed)
        one, other = (np.flatnonzero(np.isin(first[same.reshape(-1)], half)) for half in halves)
        return one, other


class Labelled(ABC):
    """Images whose labels are known, wherever that stands."""

    labels: tuple[Label, ...]
    """All that the images may show."""
    place: Path
    """What a message names."""
    skipped: Counter[str]
    """By suffix, files left out for want of an optional package; filled while embedding."""
    _form = ""
    """How the labels should be given, for a message."""

    @abstractmethod
    def count(self) -> int:
        """How many images there are now."""

    @abstractmethod
    def _refs(self, owners: list[int]) -> Iterator[ImageRef]:
        """Every image; its label's place in ``labels`` is added to ``owners``."""

    def embed(self, embedder: Embedder, watch: Watch = lambda images: images) -> LabelledImages:
        """All images' embeddings; ``watch`` sees each as it comes, and hands it on.

        Raises:
            InputError: none of the images can be read, or only one label has any.
        """
        self.skipped = Counter()
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
            raise InputError(f"{self.place}: it needs images of two labels or more{self._form}")
        return LabelledImages(self.labels, tuple(paths), np.stack(vectors), np.array(truth, np.intp), tuple(failures))


class LabelledFolder(Labelled):
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

    _form = ", in one folder a label"

    def __init__(self, folder: str | os.PathLike[str], labels: Sequence[Label] | None = None) -> None:
        self.place = Path(folder)
        names = _folder_names(self.place)
        self.labels = label_set(_labels_of(names) if labels is None else labels)
        place = _places(self.labels)
        if unknown := [name for name in names if _key(name) not in place]:
            raise UsageError(
                f"{folder}: folders that are none of the labels: {_some(unknown)}; add them, or move them away"
            )
        # A folder called - would be taken for stdin.
        self._folders = [
            (place[_key(name)], os.path.join(self.place if name != "-" else folder, name)) for name in names
        ]

    def count(self) -> int:
        """See ``Labelled.count``."""
        return sum(ImageSource([folder]).count() or 0 for _, folder in self._folders)

    def _refs(self, owners: list[int]) -> Iterator[ImageRef]:
        for label, folder in self._folders:
            source = ImageSource([folder])
            for ref in source:
                owners.append(label)
                yield ref
            self.skipped += source.skipped


class LabelledFiles(Labelled):
    """The images that a CSV table names, and their labels; what else lies in the folder is left out.

    Args:
        folder: where the table's relative paths start.
        table: with a header that names a column ``path`` (or ``image``, ``file``) and a column ``label``; its fields
            are separated by commas, semicolons or tabs.
        labels: what the images may show; see ``LabelledFolder``. Without them the labels of the table.

    Raises:
        UsageError: the table cannot be read or understood, names a file twice, or a label that is none of ``labels``.
    """

    def __init__(
        self, folder: str | os.PathLike[str], table: str | os.PathLike[str], labels: Sequence[Label] | None = None
    ) -> None:
        self.place = Path(table)
        rows = _truth_rows(self.place)
        if labels is None:
            labels = [Label(name) for name in dict.fromkeys(name for _, name in rows)]
        self.labels = label_set(labels)
        place = _places(self.labels)
        if unknown := [name for name in dict.fromkeys(name for _, name in rows) if _key(name) not in place]:
            raise UsageError(f"{table}: labels that are none of those asked for: {_some(unknown)}; add them")
        self._files = [(place[_key(name)], os.path.join(folder, path)) for path, name in rows]

    def count(self) -> int:
        """See ``Labelled.count``."""
        return len(self._files)

    def _refs(self, owners: list[int]) -> Iterator[ImageRef]:
        base = os.getcwd()
        for label, path in self._files:
            owners.append(label)
            yield file_ref(path, base)


def _truth_rows(table: Path) -> list[tuple[str, str]]:
    """The paths and labels of a table, in its order."""
    text = read_text(table, "labelled paths", largest=_LARGEST_TABLE)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter_of(text))
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        paths = [header.index(name) for name in _PATH_COLUMNS if name in header]
        if not paths or "label" not in header:
            raise FileFault(table, "its first line must name a column path and a column label", 1)
        path, label = paths[0], header.index("label")
        found: dict[str, tuple[str, str]] = {}
        for row in reader:
            if not any(row):
                continue
            if len(row) <= max(path, label) or not row[path] or not _key(row[label]):
                raise FileFault(table, "a line without path or label", reader.line_num)
            if (key := os.path.normpath(row[path])) in found:
                raise FileFault(table, f"{row[path]!r} comes a second time; an image has one label", reader.line_num)
            found[key] = (row[path], row[label])
    except csv.Error as exc:
        raise FileFault(table, f"not valid CSV: {exc}", max(reader.line_num, 1)) from exc
    if not found:
        raise FileFault(table, "no images in it: write one a line, its path and its label")
    return list(found.values())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


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
