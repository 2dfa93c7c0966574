"""The seam between clipcls and whatever computes embeddings."""

from __future__ import annotations

import pickle
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from clipcls.errors import OutOfMemory
from clipcls.records import EncoderInfo, TokenCount

if TYPE_CHECKING:
    from PIL import Image

Vectors = npt.NDArray[np.float32]

_NO_MEMORY = ("out of memory", "allocate memory", "alloc_failed", "bad_alloc", "bad allocation")
"""CUDA, MPS and the system, the allocators of torch and ONNX Runtime, the CUDA libraries, C++."""


def out_of_memory(exc: Exception, *kinds: type[Exception]) -> OutOfMemory | None:
    """What to raise instead of a library's exception if it is of such a kind, or says so; else None."""
    if isinstance(exc, (MemoryError, *kinds)) or any(sign in str(exc).lower() for sign in _NO_MEMORY):
        return OutOfMemory("out of memory: use a smaller --batch-size or --device cpu")
    return None


def one_line(exc: Exception) -> str:
    """What a library says of files that do not fit, short and in one line."""
    said = str(exc) or traceback.extract_tb(exc.__traceback__)[-1].line  # assertions without a word
    return textwrap.shorten(f"{type(exc).__name__}: {said}", 300, placeholder=" ...")


def unfit(exc: Exception) -> str:
    """What a library says of files that make no model, in one line, and what to do next."""
    if isinstance(exc, pickle.UnpicklingError):
        return "its weights hold code, which is never run; look for the same model as .safetensors"
    return f"{one_line(exc)}; its files are damaged or do not fit each other: get them anew"


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to a picture before the image tower sees it, apart from the model: no weights come with it.

    It can be sent to other processes.
    """

    image_size: int
    """See ``Encoder.image_size``."""
    preprocess: Callable[[Image.Image], Any]
    """See ``Encoder.preprocess``."""


class Encoder(Protocol):
    """Two towers that put images and texts into one space."""

    info: EncoderInfo
    image_size: int
    """Shorter side in pixels that the image tower looks at; decoding need not deliver much more."""

    batch_size: int
    """How many images at once suit the device, where nobody says otherwise."""

    def preprocess(self, image: Image.Image) -> Any:
        """One upright RGB picture as the image tower's input; called in loader threads."""
        ...

    def preparation(self) -> Preparation:
        """The same, for processes that have no model."""
        ...

    def tokenize(self, prompts: Sequence[str]) -> Sequence[TokenCount]:
        """How many tokens each prompt takes, and whether its end was cut off."""
        ...

    def encode_images(self, batch: Sequence[Any]) -> Vectors:
        """Embeddings of preprocessed images: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
        """
        ...

    def encode_texts(self, prompts: Sequence[str]) -> Vectors:
        """Embeddings of prompts: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
        """
        ...
