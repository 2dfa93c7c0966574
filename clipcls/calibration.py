"""Probabilities that mean what they say: one temperature, fitted on images whose labels are known.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2: the logits are divided by one number, so that
the ranking, and with it every figure but the calibration error, stays as it is.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipcls import __version__, zeroshot
from clipcls.errors import UsageError
from clipcls.evaluation import calibration_error, ranked
from clipcls.heads import ZeroShotClassifier
from clipcls.labelled import LabelledImages
from clipcls.records import Activation, EncoderInfo
from clipcls.sinks.cells import printable
from clipcls.textfile import FileFault, fits, parse_structured, read_text, write_new_text

logger = logging.getLogger("clipcls")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_WIDEST = 100.0
"""The largest temperature that is tried; its inverse is the smallest."""
_STEPS, _ZOOMS = 17, 8
_ROWS = 4096
_FEW = 50
"""Pictures on which no temperature can be fitted well."""
_COUNTED = 4_000_000
"""Scores that the temperature is fitted on, at most, of images at random; more would change its third digit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A temperature, and what it holds for."""

    temperature: float
    """The logits are divided by it: over 1 where the model is too sure of itself."""
    model: str
    fingerprint: str
    classifier: str
    """The digest of labels and prompts: ``ZeroShotClassifier.digest``."""
    labels: tuple[str, ...]
    """Their names, sorted: the temperature does not depend on their order, nor on what results call them."""
    images: int
    """Which it was fitted on."""
    ece_before: float
    ece_after: float
    """Expected calibration error, on as many images that had no part in it."""
    version: str = __version__

    def refuse_others(
        self, path: str | os.PathLike[str], info: EncoderInfo, classifier: str, labels: tuple[str, ...]
    ) -> None:
        """Refuse another model, and other labels or prompts, than it was fitted for.

        Raises:
            UsageError: naming what differs.
        """
        if info.fingerprint != self.fingerprint:
            model = printable(self.model)
            raise UsageError(f"{path} is for the model {model} and not for {info.spec} ({_ADVICE})")
        if tuple(sorted(labels)) != self.labels:
            other = min(set(labels) ^ set(self.labels), default="how often one comes")
            raise UsageError(f"{path} is for other labels (they differ in {other}; {_ADVICE})")
        if classifier != self.classifier:
            raise UsageError(f"{path} is for other prompts, synonyms or background ({_ADVICE})")


_ADVICE = "make one with clipcls eval --calibrate"


def calibrated(head: ZeroShotClassifier, images: LabelledImages, info: EncoderInfo, seed: int = 0) -> Calibration:
    """A temperature fitted on half of the images, and what it does to the calibration error on the other half.

    Raises:
        UsageError: there are too few images.
    """
    fit, held = images.halves(seed)
    if not min(len(fit), len(held)):
        raise UsageError("calibration needs two images or more")
    fit = np.random.default_rng(seed).permutation(fit)[: max(2, _COUNTED // len(images.labels))]
    cosines = np.concatenate(
        [head.scores(images.vectors[fit[at : at + _ROWS]]).cosines for at in range(0, len(fit), _ROWS)]
    )
    # Of a softmax then the lowest temperature fits best, whatever it is.
    if info.activation == "softmax" and (zeroshot.best(cosines) == images.truth[fit]).all():
        logger.warning(
            "all %d pictures to fit the temperature on are right, which tells nothing: it stays 1; more pictures help",
            len(fit),
        )
    else:
        head.temperature = fit_temperature(
            cosines, images.truth[fit], info.logit_scale, info.logit_bias, info.activation
        )
    labels = tuple(sorted(label.name for label in images.labels))
    after = calibration_error(ranked(head.scores, images.vectors[held]), images.truth[held])
    temperature, head.temperature = head.temperature, 1.0
    before = calibration_error(ranked(head.scores, images.vectors[held]), images.truth[held])
    if temperature != 1 and (len(fit) < _FEW or after > before):
        logger.warning(
            "do not rely on this temperature: it was fitted on %d pictures, and the calibration error of the others "
            "goes from %.3f to %.3f; some hundred pictures are better",
            len(fit),
            before,
            after,
        )
    return Calibration(
        temperature=temperature,
        model=info.spec,
        fingerprint=info.fingerprint,
        classifier=head.digest,
        labels=labels,
        images=len(fit),
        ece_before=before,
        ece_after=after,
    )


def fit_temperature(
    cosines: Floats, truth: Ints, logit_scale: float, logit_bias: float | None, activation: Activation
) -> float:
    """The temperature with the least negative log likelihood, which has one minimum: it is closed in on.

    Args:
        cosines: float64 [n, L].
        truth: each image's label, [n].
        logit_scale: factor on the cosine.
        logit_bias: added to the scaled cosine; None counts as 0.
        activation: how logits become probabilities; for a sigmoid all labels of an image count, each by itself.
    """
    low, high = -np.log(_WIDEST), np.log(_WIDEST)
    for _ in range(_ZOOMS):
        tried = np.linspace(low, high, _STEPS)
        losses = []
        for warmth in np.exp(tried):
            bias = None if logit_bias is None else logit_bias / warmth
            every = zeroshot.probabilities(cosines, logit_scale / warmth, bias, activation)
            losses.append(_loss(every, truth, activation))
        best = int(np.argmin(losses))
        low, high = tried[max(best - 1, 0)], tried[min(best + 1, _STEPS - 1)]
    return float(np.exp((low + high) / 2))


def _loss(probabilities: Floats, truth: Ints, activation: Activation) -> float:
    """Mean negative log likelihood."""
    least = np.finfo(np.float64).tiny
    rows = np.arange(len(truth))
    right = -np.log(np.maximum(probabilities[rows, truth], least))
    if activation == "softmax":
        return float(right.mean())
    others = -np.log(np.maximum(1 - probabilities, least))
    others[rows, truth] = right
    return float(others.mean())


def write_calibration(path: Path, found: Calibration) -> None:
    """Write a new TOML file.

    Raises:
        UsageError: there is something already, or the file cannot be written.
    """
    import tomli_w

    note = "Probabilities calibrated by clipcls eval --calibrate; for this model, these labels and prompts only."
    write_new_text(path, f"# {note}\n{tomli_w.dumps(asdict(found))}")


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    data = parse_structured(read_text(path, "a calibration"), path.with_suffix(".toml"))
    try:
        found = Calibration(**data | {"labels": tuple(data["labels"]), "temperature": data["temperature"] * 1.0})
        good = 1 / (10 * _WIDEST) < found.temperature < 10 * _WIDEST and type(data["temperature"]) is not bool
        good = good and fits(found, Calibration)
    except (TypeError, KeyError, OverflowError):
        good = False
    if not good:
        raise FileFault(path, f"not a calibration: {_ADVICE} -o FILE")
    return found
