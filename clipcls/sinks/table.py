"""Records as a table for a terminal, row by row. The only sink that imports rich; import it only for a table."""

# ruff: noqa: TID253

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from clipcls.records import Failure, Record, Score
from clipcls.sinks.base import ResultSink
from clipcls.sinks.cells import printable
from clipcls.sinks.rows import Layout
from clipcls.sinks.stream import send

_GAP = "  "
_GUESS = " ?"
"""Before the best label where it is not sure enough to be the answer."""
_PROBABILITY = len("probability")
_COSINE = len("-0.0000")
_EIGHTHS = " ▏▎▍▌▋▊▉"


class TableSink(ResultSink):
    """Prints each record at once: widths follow from the console and the labels, never from the rows to come."""

    def __init__(self, console: Console, layout: Layout, told: Callable[[str], str] = str) -> None:
        self._console = console
        self._told = told
        self._layout = layout
        names = max(cell_len(printable(name)) for name in layout.columns)
        if layout.unknown_label:
            names += cell_len(printable(f"{layout.unknown_label} ()"))
        if layout.multi_label:
            names = console.width
        self._label = max(len("label"), min(names, console.width // 4))
        self._bar = 12 if console.width >= (100 if layout.groups else 72) else 0
        self._group = max(12, console.width // 5) if layout.groups else 0
        fixed = (self._label, _PROBABILITY, _COSINE, self._bar, self._group)
        others = sum(width + len(_GAP) for width in fixed if width)
        self._path = max(12, min(80, console.width - others))
        self._begun = False
        self.picture: Callable[[str], str] | None = None
        """What an image looks like, by its path: whole lines that are shown above its row."""

    def write(self, record: Record) -> None:
        """See ``Sink.write``."""
        above = "" if self._begun else self._printed(self._heading())
        self._begun = True
        if self.picture and record.ok:
            above += self.picture(record.path)
        send(self._console.file, above + self._printed(self._row(record)))

    def _row(self, record: Record) -> Text:
        text = Text()
        path = _fit(record.path, self._path, keep_end=True)
        if isinstance(record, Failure):
            text.append(path + _GAP).append(printable(self._told(record.error)), "red")
        else:
            for place, score in enumerate(self._listed(record.ranked, record.all_scores)):
                text.append("\n" if place else "").append(" " * self._path if place else path)
                answer = score.label if place else self._layout.answer(record)
                if answer and record.uncertain and not place:
                    answer += f" ({score.label})"
                style = "" if place else "dim" if record.uncertain else "bold"
                text.append(_GAP if answer else _GUESS).append(_fit(answer or score.label, self._label), style)
                text.append(f"{_GAP}{score.probability:>{_PROBABILITY}.2%}{_GAP}{_cosine(score)}")
                group = None if place else record.group
                if self._bar:
                    bar = _bar(score.probability, self._bar)
                    text.append(_GAP).append(set_cell_size(bar, self._bar) if group else bar, "cyan")
                if group:
                    text.append(_GAP + _fit(f"{group.probability:.0%} {group.name}", self._group).rstrip())
        return text

    def _printed(self, text: Text) -> str:
        # Captured, because a console that prints itself turns a broken pipe into SystemExit.
        with self._console.capture() as shown:
            self._console.print(text, soft_wrap=True)
        return shown.get()

    def _listed(self, ranked: tuple[Score, ...], all_scores: tuple[Score, ...] | None) -> tuple[Score, ...]:
        """The scores to show, best first."""
        if self._layout.all_scores and all_scores is not None:
            best = ranked[0]  # first among equals, too: the answer stands beside it
            return tuple(sorted(all_scores, key=lambda s: (s == best, s.probability, s.cosine), reverse=True))
        return ranked[: self._layout.ranks]

    def _heading(self) -> Text:
        path, label, probability, cosine, group = map(self._told, ("path", "label", "probability", "cosine", "group"))
        names = [_fit(path, self._path), _fit(label, self._label), _right(probability, _PROBABILITY)]
        names.append(_right(cosine, _COSINE))
        if self._layout.groups:
            names += [" " * width for width in (self._bar,) if width] + [group]
        return Text().append(_GAP.join(names), "dim")


def _cosine(score: Score) -> str:
    return f"{round(score.cosine, 4) + 0.0:{_COSINE}.4f}"


def _right(text: str, width: int) -> str:
    return " " * (width - cell_len(text)) + text


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _fit(text: str, width: int, *, keep_end: bool = False) -> str:
    """``text``, made printable, in exactly ``width`` terminal cells; what is too long loses its end or its start."""
    text = printable(text)
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    if not keep_end:
        return set_cell_size(text, width - 1) + "…"
    tail = text[1 - width :]
    while cell_len(tail) > width - 1:
        tail = tail[1:]
    return set_cell_size("…" + tail, width)
