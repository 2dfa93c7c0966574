"""What a report shows: its pictures, the run they are from and, where the truth is known, how good the answers are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clipcls.records import Failure, Record, Score

if TYPE_CHECKING:
    from clipcls.evaluation import Evaluation
    from clipcls.heads import Head
    from clipcls.probe import Curve
    from clipcls.sinks.runinfo import RunInfo

Status = Literal["ok", "uncertain", "error"]
About = tuple[tuple[str, str | tuple[str, ...]], ...]
"""Facts by their names; the page has names in both languages for those of ``about_run``."""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture."""

    path: str
    """As it is shown."""
    status: Status
    answer: tuple[str, ...] = ()
    """The labels that are sure enough; none of an uncertain picture."""
    ranked: tuple[Score, ...] = ()
    """Best first; at least one where ``status`` is not ``error``."""
    error: str = ""
    """Why it could not be read."""
    thumbnail: bytes | None = None
    """A small WebP."""
    truth: str | None = None
    """The label it really has."""
    link: str = ""
    """The picture itself, as a relative, percent-encoded link."""

    @classmethod
    def of(cls, record: Record, thumbnail: bytes | None = None, truth: str | None = None, link: str = "") -> Item:
        """A record's item."""
        if isinstance(record, Failure):
            return cls(record.path, "error", error=record.error, truth=truth, link=link)
        status: Status = "uncertain" if record.uncertain else "ok"
        return cls(record.path, status, record.labels, record.ranked, "", thumbnail, truth, link)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the answers, 0 to 1, with its 95% interval if it has one."""

    name: str
    """The page has names in both languages for the fields of ``Evaluation``."""
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Linear probes of a few labelled pictures, beside zero-shot; all figures are shares of right answers."""

    zero_shot: float
    points: tuple[tuple[int | None, float, float], ...]
    """Pictures of each label (None for all there are), share of right answers, standard deviation over the draws."""


@dataclass(frozen=True, slots=True)
class Truth:
    """How good the answers are."""

    labels: tuple[str, ...]
    figures: tuple[Figure, ...]
    confusion: tuple[tuple[int, ...], ...]
    """How many pictures of a label (row) were called what (column), whatever the threshold."""
    bins: tuple[tuple[float, float, int, float, float], ...]
    """Of probabilities: low end, high end, how many answers, their mean probability, the share that is right."""
    probe: Probe | None = None

    @classmethod
    def of(cls, found: Evaluation, curve: Curve | None = None) -> Truth:
        """What ``clipcls eval`` found."""
        intervals = {name: getattr(found, name) for name in ("top1", "top5", "recall", "macro_f1", "ece")}
        points = tuple((each.shots, each.top1, each.spread) for each in curve.points) if curve else ()
        return cls(
            labels=tuple(each.label for each in found.classes),
            figures=tuple(Figure(name, at.value, at.low, at.high) for name, at in intervals.items() if at),
            confusion=found.confusion,
            bins=tuple((each.low, each.high, each.images, each.probability, each.right) for each in found.reliability),
            probe=Probe(curve.zero_shot, points) if curve else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report."""

    title: str
    items: Iterable[Item]
    """Walked once, as the page is written, so that they need not all be in memory."""
    labels: tuple[str, ...] = ()
    """In the order in which they are shown; labels that are missing here come after them."""
    about: About = ()
    truth: Truth | None = None
    threshold: float = 0.0
    """By which the answers were given: where the slider starts."""
    multi_label: bool = False
    measure: Literal["probability", "cosine"] = "probability"
    """What the items' ``probability`` is: of a search there is only a cosine, with 0 for what is below."""
    lang: Literal["zh", "en"] | None = None
    """What the page speaks at first; None asks the browser."""


def about_run(run: RunInfo) -> About:
    """What is worth knowing of a run."""
    facts: dict[str, str | tuple[str, ...]] = {
        "model": f"{run.model} ({run.precision})",
        "fingerprint": run.fingerprint,
        "labels": tuple(label.column for label in run.labels),
        "background": run.background,
        "prompts": tuple(dict.fromkeys(template for each in run.prompts for template in each.templates)),
        "threshold": "" if run.threshold is None else str(run.threshold),
        "margin": str(run.margin or ""),
        "temperature": "" if run.temperature == 1 else f"{run.temperature:.3f}",
        "paths": run.paths,
        "created": run.created,
        "versions": tuple(f"{name} {version}" for name, version in run.versions.items()),
    }
    return _known(facts)


def about_head(head: Head, paths: Iterable[str], threshold: float | None = None, margin: float = 0.0) -> About:
    """What is worth knowing of answers that are given now, for the images behind some paths."""
    from clipcls.sinks.runinfo import timestamp

    facts: dict[str, str | tuple[str, ...]] = {
        "model": f"{head.info.spec} ({head.info.precision})",
        "fingerprint": head.info.fingerprint,
        "labels": tuple(label.column for label in head.labels),
        "background": tuple(label.column for label in head.background),
        "prompts": tuple(dict.fromkeys(template for wording in head.wordings for template in wording.templates)),
        "threshold": str(threshold or ""),
        "margin": str(margin or ""),
        "paths": tuple(paths),
        "created": timestamp(),
    }
    return _known(facts)


def _known(facts: dict[str, str | tuple[str, ...]]) -> About:
    return tuple((name, value) for name, value in facts.items() if value)
