"""What labelled images are worth beside zero-shot: a linear probe of the same embeddings, and how to keep one.

Radford et al. 2021, section 3.1.5 and figure 6: logistic regression on the image tower's embeddings, with a few images
of each class, beside the zero-shot classifier.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.answer import Scores
from clipcls.errors import UsageError
from clipcls.heads import Head
from clipcls.labelled import LabelledImages
from clipcls.labels import Label
from clipcls.measures import Bools, Ints, stratified
from clipcls.pipeline import Embedder
from clipcls.textfile import FileFault, new_file

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

SHOTS = (1, 2, 4, 8, 16)
"""Images of each class that a probe learns from; and then all."""
EXTRA = "clipcls[eval]"
_STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""Inverse strengths of the regularisation that are tried, scikit-learn's C."""
_ONE_SHOT = 1.0
"""The one where a class has a single image, so that none can be held back to choose by."""
_FOLDS = 3
_STEPS, _PRECISION = 1000, 1e-6
"""Of the optimiser: steps at most, and the largest part of the mean loss's gradient at which it stops."""
_LARGEST = 1 << 30
"""Bytes of the largest head; what follows is not read, and its archive then damaged."""
_WIDEST = 1e9
"""No weight that was learned is as large."""


@dataclass(frozen=True, slots=True)
class Shots:
    """Probes that learned from so many images of each class."""

    shots: int | None
    """None for all there are."""
    images: int
    """That each learned from."""
    top1: float
    """The mean of the draws' shares of right answers on the images held out."""
    spread: float
    """Standard deviation over the draws; 0 of a single one."""
    draws: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Linear probes beside the zero-shot classifier, all on the same images held out."""

    held_out: int
    zero_shot: float
    """Its share of right answers."""
    points: tuple[Shots, ...]

    @property
    def worth(self) -> float | None:
        """How many labelled images of each class zero-shot is worth, on a logarithmic scale between two points.

        None where no probe of a stated number of images is as good; 0 where the first one is better.
        """
        points = [point for point in self.points if point.shots]
        for at, point in enumerate(points):
            if point.top1 >= self.zero_shot:
                if at == 0:
                    return float(point.shots or 0) if point.top1 == self.zero_shot else 0.0
                before = points[at - 1]
                part = (self.zero_shot - before.top1) / (point.top1 - before.top1)
                low, high = np.log(before.shots or 1), np.log(point.shots or 1)
                return float(np.exp(low + part * (high - low)))
        return None


def curve(
    images: LabelledImages,
    zero_shot: Bools,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = 5,
    seed: int = 0,
    watch: Callable[[str], None] = lambda line: None,
) -> Curve:
    """Probes that learn from ever more images of one half, and are judged on the other.

    Args:
        images: with their labels.
        zero_shot: which of them the zero-shot classifier gets right, bool [n].
        shots: images of each class; of a class with fewer all.
        draws: of the images to learn from.
        seed: of halves and draws.
        watch: told what comes next.

    Raises:
        UsageError: scikit-learn is missing, or a label has too few images.
    """
    require_sklearn()
    pool, held = images.halves(seed)
    held = held[np.isin(images.truth[held], images.truth[pool])]  # what nothing was learned of cannot be right
    if len(np.unique(images.truth[pool])) < 2 or not len(held):
        raise UsageError("a probe needs two labels or more with two different images each")
    most = int(np.bincount(images.truth[pool]).max())
    points = []
    for count in [*(some for some in shots if some <= most), None]:
        watch(f"probes of {count or 'all'} images a label")
        rights, learned = [], 0
        for draw in range(draws if count else 1):
            rows = _few(pool, images.truth, count, [seed, draw]) if count else pool
            weights, bias = learn(images.vectors[rows], images.truth[rows], len(images.labels), seed)
            guesses = _logits(images.vectors[held], weights, bias).argmax(axis=1)
            rights.append(float((guesses == images.truth[held]).mean()))
            learned = len(rows)
        points.append(Shots(count, learned, float(np.mean(rights)), float(np.std(rights)), len(rights)))
    return Curve(len(held), float(zero_shot[held].mean()), tuple(points))


def learn(vectors: Vectors, truth: Ints, labels: int, seed: int) -> tuple[Floats, Floats]:
    """A logistic regression; its regularisation is chosen by cross-validation among these images alone.

    Args:
        vectors: float32 [n, D], unit rows.
        truth: each image's label, [n].
        labels: how many there are, L; one without images is never the answer.
        seed: of the folds.

    Returns:
        Weights, float64 [L, D], and bias, float64 [L].
    """
    strength = _ONE_SHOT
    several = np.flatnonzero(
        np.bincount(truth)[truth] > 1
    )  # the others are learned from, and nothing is judged by them
    if len(several):
        folds = [fold for fold in stratified(several, truth, _FOLDS, seed) if len(fold)]
        strength = max(_STRENGTHS, key=lambda each: _right(vectors, truth, folds, each))
    middle = vectors.mean(axis=0)
    model = _fitted(vectors - middle, truth, strength)
    rows, offsets = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn gives one row, for the second class
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weights, bias = np.zeros((labels, vectors.shape[1])), np.full(labels, -np.inf)
    weights[model.classes_], bias[model.classes_] = rows, offsets - rows @ middle
    return weights, bias


def _right(vectors: Vectors, truth: Ints, folds: Sequence[Ints], strength: float) -> int:
    """How many images a regression gets right that it did not see."""
    every = np.arange(len(truth))
    vectors = vectors - vectors.mean(axis=0)
    right = 0
    for fold in folds:
        rest = np.setdiff1d(every, fold)
        right += int((_fitted(vectors[rest], truth[rest], strength).predict(vectors[fold]) == truth[fold]).sum())
    return right


def _fitted(vectors: Vectors, truth: Ints, strength: float) -> Any:
    """A regression on vectors less their mean: embeddings all point much the same way, and it would hardly begin."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it stopped before the very end
        return LogisticRegression(C=strength, max_iter=_STEPS, tol=_PRECISION).fit(vectors, truth)


def _few(pool: Ints, truth: Ints, count: int, seed: list[int]) -> Ints:
    """So many images of each class, at random."""
    order = np.random.default_rng(seed).permutation(pool)
    return np.concatenate([order[truth[order] == each][:count] for each in np.unique(truth[pool])])


def _logits(vectors: Vectors, weights: Floats, bias: Floats) -> Floats:
    return np.asarray(vectors.astype(np.float64) @ weights.T + bias)


def require_sklearn() -> None:
    """Refuse to begin without scikit-learn.

    Raises:
        UsageError: it is missing.
    """
    if not find_spec("sklearn"):
        raise UsageError(f"--probe and --save-probe need scikit-learn: pip install '{EXTRA}'")


def save_probe(path: Path, images: LabelledImages, embedder_fingerprint: str, model: str, seed: int = 0) -> None:
    """A probe that learned from all images, to a new ``.npz`` file.

    Raises:
        UsageError: the file exists, or scikit-learn is missing.
        OutputError: it cannot be written.
    """
    require_sklearn()
    weights, bias = learn(images.vectors, images.truth, len(images.labels), seed)
    with new_file(path) as file:
        np.savez(
            file,
            weights=weights.astype(np.float32),
            bias=bias.astype(np.float32),
            labels=np.array([label.column for label in images.labels]),
            fingerprint=np.array(embedder_fingerprint),
            model=np.array(model),
        )


class LinearClassifier(Head):
    """Labels with weights that were learned; made by ``Classifier.linear``.

    Args:
        embedder: the model.
        file: what ``save_probe`` wrote.

    Raises:
        UsageError: the file cannot be read, is no head, or is for another model.
    """

    def __init__(self, embedder: Embedder, file: Path) -> None:
        try:
            with file.open("rb") as stream:
                data = stream.read(_LARGEST)
        except OSError as exc:
            raise UsageError(
                f"cannot read a head from {file}: {exc.strerror or exc}; name a file of --save-probe"
            ) from exc
        parts = _parts(data, file)
        if (wanted := str(parts["fingerprint"])) != embedder.info.fingerprint:
            raise UsageError(f"{file} is for the model {parts['model']} ({wanted}) and not for {embedder.info.spec}")
        if parts["weights"].shape[1] != embedder.info.dim:
            raise FileFault(file, "a damaged head: make it anew with clipcls eval DIR --save-probe FILE")
        super().__init__(embedder, tuple(Label(str(name)) for name in parts["labels"]))
        self.file_digest = hashlib.sha256(data).hexdigest()
        self._weights, self._bias = parts["weights"].astype(np.float64), parts["bias"].astype(np.float64)

    def scores(self, images: Vectors) -> Scores:
        """See ``Head.scores``; the cosines are those with each label's weights, and do not alone decide."""
        logits = _logits(images, self._weights, self._bias)
        norms = np.linalg.norm(self._weights, axis=1)
        cosines = images.astype(np.float64) @ (self._weights / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]).T
        return Scores(np.clip(cosines, -1, 1), zeroshot.probabilities(logits, 1.0, None, "softmax"), logits)


def _parts(data: bytes, file: Path) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as parts:
            found = {name: parts[name] for name in ("weights", "bias", "labels", "fingerprint", "model")}
    except Exception as exc:  # a damaged archive raises what comes
        raise FileFault(file, "not a head: make one with clipcls eval DIR --save-probe FILE") from exc
    weights, bias, labels = found["weights"], found["bias"], found["labels"]
    good = (
        all(isinstance(part, np.ndarray) for part in found.values())  # what is no array in an archive comes as bytes
        and (labels.ndim, labels.dtype.kind) == (1, "U")
        and all(labels)
        and len(set(labels.tolist())) == len(labels) > 0
        and (weights.dtype.kind, bias.dtype.kind) == ("f", "f")
        and weights.ndim == 2
        and bias.shape == weights.shape[:1] == labels.shape
        and np.abs(weights).max(initial=0) < _WIDEST
        and bias.max() < _WIDEST
        and np.isfinite(bias).any()
        and found["fingerprint"].ndim == found["model"].ndim == 0
    )
    if not good:
        raise FileFault(file, "a damaged head: make it anew with clipcls eval DIR --save-probe FILE")
    return found
