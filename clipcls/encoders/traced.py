"""A model's towers as ONNX graphs: where they lie, and what besides them it takes to answer; without torch.

A traced model is a folder of ``image.onnx`` and ``text.onnx``, a tokenizer and ``traced.json``. The graphs hold no
weights: they name places in the model's own safetensors files, which ONNX Runtime finds beside the graphs. In the
cache those are hard links; where there can be none, the weights are mapped into memory and handed over.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from clipcls.encoders.files import FACTS, GRAPHS, WEIGHTS, ModelFiles
from clipcls.encoders.spec import ModelSpec
from clipcls.errors import ModelError
from clipcls.records import Precision

VERSION = 1
"""Raised when what a traced model consists of changes: others are then traced anew."""
OWN_WEIGHTS = "traced.tensors"
"""Weights that the model's own files do not hold as the graphs need them; not called .safetensors, since beside a
model's weights it would be taken for a second checkpoint."""
TOKENS = "tokens.json"
"""The tokenizer, as the library tokenizers reads it."""
PLACES = "places.json"
"""Which numbers of which file each graph names: for where the files cannot lie beside the graphs."""
NAMES: dict[Precision, str] = {"fp32": "fp32", "int8": "int8 by ONNX Runtime"}
"""Precisions as fingerprints name them: 8-bit integers are not the same as torch's."""
_LIBRARIES = ("torch", "onnx", "onnxruntime", "open_clip_torch", "transformers", "tokenizers")
"""A model that could not be traced is tried again when one of them is another."""

_MOST = 10_000
"""Pixels of a side, tokens of a prompt or numbers of an embedding: more than any model's."""
_ABANDONED = 3600
"""Seconds after which nobody is at work on a draft any more."""

Cleaning = Literal["none", "whitespace", "lower", "canonicalize", "chinese_clip"]

logger = logging.getLogger("clipcls")


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """How a picture becomes the image tower's input."""

    size: tuple[int, int]
    """Height and width in pixels."""
    resize: Literal["shortest", "longest", "squash"]
    """Which side is brought to the size, and the centre then cut out or padded; or both, whatever their ratio."""
    edge: int
    """Pixels to which the shortest side is brought, where that is done."""
    interpolation: Literal["bicubic", "bilinear"]
    fill: int
    """The grey around a picture that does not fill the size."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TextFacts:
    """How a prompt becomes the text tower's input."""

    cleaning: Cleaning
    context: int
    """Tokens that are read."""
    padding: int
    """The token that fills up."""
    full: bool
    """Whether every prompt is filled up to the context, because the tower looks at the padding."""
    dropped: int | None
    """A token that the tower is to see as 0."""
    first: dict[str, int]
    """By script the token that a prompt begins with, in place of the tokenizer's; empty where all begin alike."""


@dataclass(frozen=True, slots=True)
class Traced:
    """All that ONNX Runtime needs of a model."""

    folder: Path
    dim: int
    logit_scale: float
    logit_bias: float | None
    languages: tuple[str, ...]
    tokenizer: str
    """Name of the tokenizer's file beside the graphs."""
    pictures: PictureFacts
    texts: TextFacts
    faster: str = ""
    """What a person may want to know of another precision on this processor."""

    def save(self) -> None:
        """Write ``traced.json``."""
        facts = {key: value for key, value in asdict(self).items() if key != "folder"}
        _write(self.folder, {"version": VERSION} | facts)


def read(folder: Path) -> Traced:
    """What a folder says of the model that was traced into it.

    Raises:
        ModelError: the folder is damaged; an OutdatedError, if it is of another version of clipcls.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts.pop("version") != VERSION:
            raise OutdatedError(f"{folder} was traced by another version of clipcls")
        pictures, texts = PictureFacts(**facts.pop("pictures")), TextFacts(**facts.pop("texts"))
        languages = tuple(facts.pop("languages"))
        traced = Traced(folder, pictures=pictures, texts=texts, languages=languages, **facts)
        _check(traced)
        return traced
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise ModelError(f"{folder / FACTS} cannot be used: {exc}; delete {FACTS}, and the model runs without") from exc


def _check(traced: Traced) -> None:
    """Make sure of what nobody else looks at before it is computed with.

    Raises:
        Exception: a number is none, or one that no model has.
    """
    pictures, texts = traced.pictures, traced.texts
    for size, least in (
        (traced.dim, 1),
        *((side, 1) for side in pictures.size),
        (pictures.edge, 0),
        (texts.context, 1),
    ):
        if not isinstance(size, int) or not least <= size <= _MOST:
            raise ValueError(f"no model has a size of {size!r}")
    bias = 0.0 if traced.logit_bias is None else traced.logit_bias
    for number in (traced.logit_scale, bias, pictures.fill, *pictures.mean, *pictures.std):
        if not isinstance(number, int | float):
            raise TypeError(f"{number!r} is no number")
    for token in (texts.padding, 0 if texts.dropped is None else texts.dropped, *texts.first.values()):
        if not isinstance(token, int):
            raise TypeError(f"{token!r} is no token")
    if texts.first and "Latin" not in texts.first:
        raise LookupError("it names no token for Latin script")


class OutdatedError(ModelError):
    """What was traced was traced by another version of clipcls."""


def files_of(folder: Path) -> list[Path]:
    """What belongs to a traced model besides the model's own weights."""
    named = (folder / name for name in (*GRAPHS, FACTS, TOKENS, OWN_WEIGHTS))
    return [path for path in named if path.is_file()]


def locations(files: ModelFiles) -> dict[Path, str]:
    """What each of a model's safetensors files is called beside the graphs: the same as in an exported folder."""
    safe = [path for path in files.weights if path.suffix == ".safetensors"]
    if len(safe) < len(files.weights):
        return {}  # pickles, or a folder that holds several checkpoints
    single = len(safe) == 1 and not Path(files.name).is_absolute()
    return {path: WEIGHTS if single else path.name for path in safe}


def ready(spec: ModelSpec, files: ModelFiles, precision: Precision, fingerprint: str, home: Path) -> Traced | None:
    """A model's graphs from the cache; they are made if they are not there. None where there can be none.

    Args:
        spec: the model's name.
        files: its parts on disk.
        precision: fp32 or int8.
        fingerprint: the model's in this precision.
        home: the folder that holds a folder for each traced model.
    """
    folder = home / fingerprint
    if refusal(home, fingerprint):
        return None
    if all((folder / name).is_file() for name in GRAPHS):
        with suppress(ModelError):
            traced = read(folder)
            _lay(files, folder, precision)
            return traced
    try:
        _make(spec, precision, fingerprint, folder)
        _lay(files, folder, precision)
        if refusal(home, fingerprint):
            return None
        traced = read(folder)
        if traced.faster:
            logger.info("%s", traced.faster)
        return traced
    except (ModelError, OSError) as exc:
        logger.warning("%s runs through torch, which is slower to start: %s", spec.given, " ".join(str(exc).split()))
        return None


def refusal(home: Path, fingerprint: str) -> str | None:
    """Why a model could not be traced by the libraries that are installed; None if it was, or was never tried."""
    try:
        table = json.loads((home / fingerprint / FACTS).read_text(encoding="utf-8"))
        same = table["version"] == VERSION and table["libraries"] == _libraries()
        return str(table["refused"]) if same else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def refuse(folder: Path, reason: str) -> None:
    """Remember that a model cannot be traced by the libraries that are installed."""
    _write(folder, {"version": VERSION, "refused": reason, "libraries": _libraries()})


def lay_weights(files: ModelFiles, folder: Path) -> None:
    """Put hard links to a model's weights beside its graphs, which ONNX Runtime follows; where that can be done."""
    for path, name in locations(files).items():
        link = folder / name
        with suppress(OSError):
            if link.exists() and os.path.samefile(path, link):
                continue
        with suppress(OSError):  # another file system, or one without links
            link.unlink(missing_ok=True)
            os.link(os.path.realpath(path), link)


def _lay(files: ModelFiles, folder: Path, precision: Precision) -> None:
    if precision == "fp32":  # 8-bit weights are the graphs' own
        lay_weights(files, folder)


def _make(spec: ModelSpec, precision: Precision, fingerprint: str, folder: Path) -> None:
    """Trace a model in a process of its own, which takes torch and its memory with it."""
    from clipcls.isolated import python

    logger.info("preparing %s to run without torch, which is done once and takes some seconds", spec.given)
    _sweep(folder.parent)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        done = subprocess.run(
            python("from clipcls.encoders.tracing import main; main()", spec.given, str(draft), fingerprint, precision),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode or not (draft / FACTS).is_file():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise ModelError(lines[-1] if lines else f"tracing ended with exit code {done.returncode}")
        if folder.exists():  # of another version, damaged, or made by another process meanwhile
            shutil.rmtree(folder)
        with suppress(OSError):
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sweep(home: Path) -> None:
    """Delete what runs that were cut off have left."""
    for draft in home.glob(".*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _ABANDONED:
                shutil.rmtree(draft, ignore_errors=True)


def _write(folder: Path, table: dict[str, Any]) -> None:
    (folder / FACTS).write_text(json.dumps(table, indent=1, ensure_ascii=False), encoding="utf-8")


@cache
def _libraries() -> Sequence[str]:
    from importlib.metadata import version

    return [version(name) for name in _LIBRARIES]
