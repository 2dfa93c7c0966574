"""What the words mean: WordNet's nouns in English and Chinese, and our own lists of names.

WordNet 3.0 (Fellbaum 1998); Chinese words by the same synsets from the Chinese Open Wordnet (Wang & Bond 2013) and the
Open Multilingual Wordnet's links to Wiktionary and CLDR (Bond & Foster 2013).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NAMES = Path(__file__).parent / "names"
SOURCES = ("wn-data-cmn.tab", "wn-wikt-cmn.tab", "wn-cldr-cmn.tab")
_HAN = re.compile(r"^[㐀-鿿·]{1,8}$")
_LATIN = re.compile(r"^[A-Za-z][A-Za-z0-9' .\-]{0,27}$")


@dataclass(slots=True)
class Synset:
    """One sense that nouns share."""

    offset: str
    """Its place in WordNet 3.0: ImageNet's n02504013 is 02504013."""
    english: list[str]
    hypernyms: list[str]
    gloss: str
    chinese: list[str] = field(default_factory=list)
    """The surest first: named by more sources, shorter."""
    uses: dict[str, float] = field(default_factory=dict)
    """How much of a name's use (English in lower case, or Chinese) is this sense: larger is more."""


@dataclass(frozen=True, slots=True)
class Name:
    """What people call one class, the plainest name first in both languages."""

    english: tuple[str, ...]
    chinese: tuple[str, ...]

    def of(self, language: str) -> tuple[str, ...]:
        """The names in ``en`` or ``zh``."""
        return self.english if language == "en" else self.chinese


@dataclass(slots=True)
class WordNet:
    """All noun synsets by offset."""

    synsets: dict[str, Synset]

    @functools.cache  # noqa: B019 - one WordNet lives as long as the program
    def ancestors(self, offset: str) -> frozenset[str]:
        """A synset, its hypernyms, theirs and so on."""
        return frozenset({offset}).union(*(self.ancestors(above) for above in self.synsets[offset].hypernyms))

    def information(self) -> dict[str, float]:
        """Intrinsic information content, 0 at the root and 1 at a leaf (Seco, Veale & Hayes 2004)."""
        below = dict.fromkeys(self.synsets, 0)
        for offset in self.synsets:
            for above in self.ancestors(offset):
                below[above] += 1
        return {offset: 1 - math.log(count) / math.log(len(self.synsets)) for offset, count in below.items()}

    __hash__ = object.__hash__


def read_wordnet(english: Path, chinese: Path) -> WordNet:
    """WordNet's nouns from its database folder, with Chinese names from the folder of the ``.tab`` files."""
    synsets = {synset.offset: synset for synset in _nouns(english / "data.noun")}
    _count_uses(english, synsets)
    _add_chinese(chinese, synsets)
    return WordNet(synsets)


def _nouns(path: Path) -> Iterator[Synset]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, gloss = line.split("|", 1)
        fields = head.split()
        words = int(fields[3], 16)
        pointers = fields[5 + 2 * words :]
        yield Synset(
            offset=fields[0],
            english=[word.replace("_", " ") for word in fields[4 : 4 + 2 * words : 2]],
            hypernyms=[pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")],
            gloss=gloss.strip().split("; ")[0],
        )


def _count_uses(folder: Path, synsets: dict[str, Synset]) -> None:
    """The first sense of a word counts, and each time that the tagged texts use one."""
    tagged = {}
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        sense, number, count = line.split()
        word, rest = sense.split("%")
        if rest.startswith("1:"):  # nouns
            tagged[word, int(number)] = int(count)
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        fields = line.split()
        for number, offset in enumerate(fields[-int(fields[2]) :], start=1):
            first = 1.0 if number == 1 else 0.15
            synsets[offset].uses[fields[0].replace("_", " ")] = first + tagged.get((fields[0], number), 0)


def _add_chinese(folder: Path, synsets: dict[str, Synset]) -> None:
    named: dict[str, dict[str, int]] = {}
    for source in SOURCES:
        for line in (folder / source).read_text(encoding="utf-8").splitlines():
            fields = line.split("\t")
            if line.startswith("#") or len(fields) < 3 or "lemma" not in fields[1]:
                continue
            offset, part = fields[0].split("-")
            name = fields[2].strip().replace("+", "")
            if part == "n" and offset in synsets and _HAN.match(name):
                counts = named.setdefault(offset, {})
                counts[name] = counts.get(name, 0) + 1
    for offset, counts in named.items():
        synset = synsets[offset]
        synset.chinese = sorted(counts, key=lambda name: (-counts[name], len(name), name))
        used = sum(synset.uses.values()) ** 0.5
        synset.uses |= {name: 0.3 + used * counts[name] for name in synset.chinese}


def usable_english(synset: Synset) -> list[str]:
    """The names that a person might type, without formulas and long Latin."""
    return [name for name in synset.english if _LATIN.match(name)]


def imagenet_names(english: Sequence[str]) -> list[Name]:
    """Names of ImageNet's classes in order: ``open_clip.IMAGENET_CLASSNAMES``, cleaned, and our own Chinese ones."""
    chinese = (NAMES / "imagenet-zh.txt").read_text(encoding="utf-8").split()
    return [Name(tuple(_alternatives(a)), tuple(b.split("/"))) for a, b in zip(english, chinese, strict=True)]


def _alternatives(name: str) -> list[str]:
    """``sunglasses / sunglass (eyewear)`` is two names."""
    plain = [re.sub(r"\s*\(.*?\)", "", part).strip() for part in name.split(" / ")]
    return [each for part in plain for each in (part.split(" or ") if "traffic" not in part else [part])]


def folder_names(collection: str) -> dict[str, Name]:
    """Names of a data set's folders: ``caltech-101`` or ``groceries``."""
    return {folder: Name((english,), (chinese,)) for folder, english, chinese in _rows(f"{collection}.tsv")}


def labels(folders: Mapping[str, Name]) -> list[Name]:
    """The different names of a data set's folders, two of which may share one."""
    return sorted(set(folders.values()), key=lambda name: name.english)


def word_pairs() -> list[tuple[str, str]]:
    """Everyday Chinese words, each with its English one."""
    return [(chinese, english) for chinese, english in _rows("pairs.tsv")]


def common_chinese() -> list[str]:
    """Everyday Chinese words that the vocabulary must spell well."""
    return (NAMES / "common-zh.txt").read_text(encoding="utf-8").split()


def _rows(file: str) -> Iterator[list[str]]:
    for line in (NAMES / file).read_text(encoding="utf-8").splitlines():
        yield line.split("\t")
