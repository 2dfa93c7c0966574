"""The values that travel between the stages: frozen, slotted dataclasses and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

Activation = Literal["softmax", "sigmoid"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""What the towers compute in."""
Synonyms = Literal["mean", "max"]
"""How a label with several names is scored: the mean of their class weights, or an image's best score among them."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What a warm run compares to know that a file has not changed."""

    path: str
    """Absolute path; bytes that are not UTF-8 are kept as surrogate escapes (``os.fsdecode``)."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Nanoseconds since the epoch."""

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> FileStamp:
        """A file's or folder's stamp, as it is now.

        Raises:
            OSError: it cannot be looked at.
        """
        status = os.stat(path)
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image to look at, wherever its bytes lie; it is opened only when they are needed."""

    id: str
    """What the person sees: for a file its path as they would type it."""
    base: str
    """Absolute folder that a relative ``id`` starts from."""
    stat: FileStamp | None
    """None where there is no file to stat, or where it could not be read: then ``open`` tells why."""
    open: Callable[[], BinaryIO] = field(repr=False, compare=False)
    """Opens the image's bytes; with the whole reference it can be sent to another process.

    Raises:
        OSError: the image cannot be opened.
    """
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What its source says of it: the other columns of a table, a caption; plain values by name."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Some images that follow each other in a run's input."""

    number: int
    """From 0."""
    refs: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """What is told of a shard whose results are written."""

    number: int
    images: int
    failed: int
    uncertain: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """One label's score for one image."""

    label: str
    """The label's name, followed by its id in brackets if it has one."""
    probability: float
    """0 to 1: a softmax over all labels, or, for a sigmoid model, this label's own."""
    cosine: float
    """-1 to 1: image embedding times class weight, both unit vectors."""


@dataclass(frozen=True, slots=True)
class GroupScore:
    """What an image shows a kind of."""

    name: str
    probability: float
    """0 to 1: the sum over the group's labels; where labels are scored each on its own, that of the best."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image and its labels, best first."""

    path: str
    ranked: tuple[Score, ...]
    """The top k scores, highest first."""
    all_scores: tuple[Score, ...] | None = None
    """Every label's score in label order, where it was asked for."""
    cached: bool = False
    """Whether the image's embedding came from the store."""
    sure: tuple[str, ...] | None = None
    """The labels that are sure enough to be the answer; None where the best one is, whatever its score."""
    group: GroupScore | None = None
    """The best group, where groups were asked for."""

    ok = True
    error = None

    @property
    def top(self) -> Score:
        """The best score."""
        return self.ranked[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """The answer: one label, several of a multi-label classifier, best first, or none."""
        return (self.top.label,) if self.sure is None else self.sure

    @property
    def uncertain(self) -> bool:
        """Whether no label is sure enough to be the answer."""
        return not self.labels


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be classified, and why."""

    path: str
    error: str
    cached: bool = False
    """Whether the reason was remembered from an earlier run."""

    ok = False


Record = Prediction | Failure


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How much of the text tower's context one prompt takes."""

    tokens: int
    """Tokens including the begin and end marks, at most the context length."""
    cut: bool
    """Whether the prompt was longer than the context and lost its end."""


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """All that scoring needs to know of a model; kept in the store, so that a warm run need not load it."""

    spec: str
    """The name it was asked for by."""
    fingerprint: str
    """Identity of weights, preprocessing, precision and encoder code; never of the device."""
    precision: str
    """What the towers compute in, such as ``fp32``."""
    dim: int
    """Length of an embedding."""
    logit_scale: float
    """The factor on the cosine, already exponentiated."""
    logit_bias: float | None
    """Added to the scaled cosine; None for models without one."""
    activation: Activation
    """How logits become probabilities."""
    languages: tuple[str, ...] = ()
    """Languages the text tower was trained on, as ISO 639-1 codes; empty where unknown."""
