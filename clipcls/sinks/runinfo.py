"""The run file beside a result file: what was run, on what, and whether it finished."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipcls.errors import OutputError
from clipcls.records import Activation, EncoderInfo, Synonyms
from clipcls.sinks.cells import printable
from clipcls.sinks.durable import write_whole
from clipcls.sinks.rows import Layout, RunFormat
from clipcls.textfile import fits

_SHOWN = 5
_DECISIVE = (
    *("logit_scale", "logit_bias", "activation", "format", "top_k", "all_scores", "excel", "synonyms", "background"),
    *("temperature", "head", "threshold", "margin", "unknown_label", "multi_label", "groups", "base"),
    *("vectors", "shard_size"),
)
"""Fields that say what a row holds, besides those that are compared item by item."""


@dataclass(frozen=True, slots=True)
class LabelInfo:
    """One label as the run had it."""

    name: str
    column: str
    """What the label is called where names must not be equal."""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class LabelPrompts:
    """The prompt templates that some labels were written into."""

    labels: tuple[str, ...]
    """By their column names; a synonym as ``COLUMN|SYNONYM``."""
    templates: tuple[str, ...]


def timestamp() -> str:
    """This second as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """Everything that decides what a run's rows say, and how far it came."""

    versions: dict[str, str]
    """Of clipcls and of what it computed with, by package name."""
    model: str
    """The name it was asked for by."""
    fingerprint: str
    precision: str
    logit_scale: float
    logit_bias: float | None
    activation: Activation
    labels: tuple[LabelInfo, ...]
    prompts: tuple[LabelPrompts, ...]
    format: RunFormat
    vectors: str = ""
    """The type of the embeddings' numbers, where a run writes embeddings and not answers."""
    shard_size: int = 0
    """Images a shard; 0 for a run that is not cut into shards."""
    top_k: int = 1
    all_scores: bool = False
    excel: bool = False
    synonyms: Synonyms = "mean"
    """How a label with several names was scored."""
    background: tuple[str, ...] = ()
    """Labels that competed and are in no row, by their names."""
    temperature: float = 1.0
    """What the logits were divided by; from ``--calibration``."""
    head: str = ""
    """The digest of the file that ``--head`` named."""
    threshold: float | None = None
    margin: float = 0.0
    unknown_label: str = ""
    multi_label: bool = False
    groups: tuple[str, ...] = ()
    """Each label's group, in label order, where groups were asked for."""
    base: str
    """Absolute folder that relative paths start from."""
    paths: tuple[str, ...]
    """What was asked for, as it was typed."""
    selection: dict[str, Any] = field(default_factory=dict)
    """The options that choose among the images behind the paths."""
    overwrite: bool = False
    """Whether an earlier result file was to be replaced; kept, so that a resumed run need not ask again."""
    created: str = field(default_factory=timestamp)
    finished: str | None = None
    complete: bool = False
    images: int = 0
    """Rows written; counted when the run is complete."""
    failed: int = 0
    """How many of them are failures."""

    @classmethod
    def of(cls, model: EncoderInfo, **asked: Any) -> RunInfo:
        """A run of a model.

        Args:
            model: what is known of it.
            asked: all other fields.
        """
        return cls(
            model=model.spec,
            fingerprint=model.fingerprint,
            precision=model.precision,
            logit_scale=model.logit_scale,
            logit_bias=model.logit_bias,
            activation=model.activation,
            **asked,
        )

    @property
    def layout(self) -> Layout:
        """What a row of this run holds."""
        return Layout(
            tuple(label.column for label in self.labels),
            self.top_k,
            self.all_scores,
            self.excel,
            self.unknown_label,
            self.multi_label,
            bool(self.groups),
            best=bool(self.threshold or self.margin or self.background or self.multi_label),
        )


def run_path(output: Path) -> Path:
    """Where the run file of ``output`` lies."""
    return output.with_name(output.name + ".run.json")


def write_run(output: Path, run: RunInfo) -> None:
    """Writes the run file of ``output``, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(asdict(run), ensure_ascii=False, indent=2)
    # A path that is not UTF-8 holds lone surrogates; as JSON escapes they survive in a UTF-8 file.
    text = re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
    write_whole(run_path(output), text + "\n")


def read_run(output: Path) -> RunInfo | None:
    """The run file of ``output``; None where there is none.

    Raises:
        OutputError: it is not a run file of this version.
        OSError: it cannot be read.
    """
    path = run_path(output)
    try:
        data = json.loads(path.read_text("utf-8"))
        data["labels"] = tuple(LabelInfo(**label) for label in data["labels"])
        data["prompts"] = tuple(
            LabelPrompts(tuple(item["labels"]), tuple(item["templates"])) for item in data["prompts"]
        )
        for name in ("paths", "background", "groups"):
            data[name] = tuple(data[name])
        run = RunInfo(**data)
        if not fits(run, RunInfo):
            raise TypeError("a value of the wrong type")
        return run
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        raise OutputError(
            f"{printable(str(path))} is damaged or from another version of clipcls; --overwrite starts over"
        ) from exc


def differences(then: RunInfo, now: RunInfo) -> list[str]:
    """What makes the rows of two runs differ, each as ``what: X then, Y now``."""
    found = []
    if then.fingerprint != now.fingerprint:
        found.append(_differ("model", [_model(then)], [_model(now)]))
    if then.layout.columns != now.layout.columns or _names(then) != _names(now):
        same_names = _names(then) == _names(now)
        found.append(_differ("labels", *(run.layout.columns if same_names else _names(run) for run in (then, now))))
    else:
        found += _prompt_differences(then, now)
    for name in _DECISIVE:
        old, new = getattr(then, name), getattr(now, name)
        if old != new and not (name == "shard_size" and 0 in (old, new)):  # which both engines may write alike
            found.append(_differ(name.replace("_", " "), *map(_items, (old, new))))
    for name in {**then.selection, **now.selection}:
        if then.selection.get(name) != now.selection.get(name):
            found.append(_differ(name, [str(then.selection.get(name))], [str(now.selection.get(name))]))
    if then.paths != now.paths:
        found.append(_differ("paths", then.paths, now.paths))
    return found


def _items(value: object) -> Sequence[str]:
    return value if isinstance(value, tuple) else [str(value)]


def _model(run: RunInfo) -> str:
    return f"{run.model} {run.precision} ({run.fingerprint})"


def _names(run: RunInfo) -> tuple[str, ...]:
    return tuple(label.name for label in run.labels)


def _prompt_differences(then: RunInfo, now: RunInfo) -> list[str]:
    old, new = (
        {label: prompts.templates for prompts in run.prompts for label in prompts.labels} for run in (then, now)
    )
    differ = [label for label in {**old, **new} if old.get(label, ()) != new.get(label, ())]
    if not differ:
        return []
    more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
    return [_differ(f"prompts of {differ[0]}{more}", old.get(differ[0], ()), new.get(differ[0], ()))]


def _differ(what: str, old: Sequence[str], new: Sequence[str]) -> str:
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return printable(f"{what}: {_around(old, same)} then, {_around(new, same)} now")


def _around(items: Sequence[str], place: int) -> str:
    """A few of the items, among them the one at ``place``."""
    start = max(0, min(place, len(items) - _SHOWN))
    shown = [*items[start : start + _SHOWN]]
    if start:
        shown.insert(0, "…")
    if start + _SHOWN < len(items):
        shown.append("…")
    return ", ".join(shown) or "none"
