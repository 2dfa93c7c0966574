"""Which languages a text can be in, by its script, and whether a model was trained on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from clipcls.labels import script
from clipcls.prompts import Wording, expand
from clipcls.records import EncoderInfo

MANY = "mul"
"""ISO 639-2 for several languages: in a model's languages it stands for whatever people write."""

NAMES = {
    **{"en": "English", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "ru": "Russian", "de": "German"},
    **{"fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese", MANY: "many languages"},
}
_LATIN = (
    *("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "fi", "is", "pl", "cs", "sk", "sl", "hr", "hu", "ro"),
    *("sq", "tr", "az", "vi", "id", "ms", "tl", "sw", "af", "et", "lv", "lt", "ca", "eu", "gl", "ga", "cy", "mt"),
)
_LANGUAGES = {
    "Latin": frozenset(_LATIN),
    "Chinese": frozenset({"zh", "ja"}),  # a Japanese word can be all characters
    "Japanese": frozenset({"ja"}),
    "Hangul": frozenset({"ko"}),
    "Cyrillic": frozenset({"ru", "uk", "be", "bg", "sr", "mk", "kk", "ky", "tg", "mn"}),
    "Greek": frozenset({"el"}),
    "Arabic": frozenset({"ar", "fa", "ur", "ps", "ug", "ckb"}),
    "Hebrew": frozenset({"he", "yi"}),
    "Devanagari": frozenset({"hi", "mr", "ne"}),
    "Thai": frozenset({"th"}),
}
_SHOWN = 3


def reads(languages: Sequence[str], script: str) -> bool:
    """Whether a model of these languages was trained on texts in a script; True where its languages are not known."""
    if not script or not languages or MANY in languages:
        return True
    return not _LANGUAGES.get(script, frozenset()).isdisjoint(languages)


def complaints(wordings: Iterable[Wording], info: EncoderInfo, *, asked: bool) -> Iterator[str]:
    """What a person should know before trusting the answers: which labels, or prompts, the model cannot read.

    Args:
        wordings: the labels' names and their templates.
        info: the model.
        asked: whether the person chose the prompts: then they should be in the labels' language.
    """
    wordings = list(wordings)
    by_script: dict[str, dict[str, None]] = {}
    for wording in wordings:
        for text in (wording.name, *(expand(template, "") for template in wording.templates)):
            if not reads(info.languages, script(text)):
                by_script.setdefault(script(text), {})[wording.name] = None
    for unread, names in by_script.items():
        known = " and ".join(NAMES.get(language, language) for language in info.languages)
        yield (
            f"{info.spec} was trained on {known} and does not know {unread} ({_some(names)}): its answers will be "
            f"noise; write labels and prompts in {known}, or use {_models(unread)}"
        )
    if asked and not by_script:
        yield from _mixed(wordings)


def _mixed(wordings: Sequence[Wording]) -> Iterator[str]:
    """Whether the sentences are in another language than the labels in them."""
    names = {wording.name: script(wording.name) for wording in wordings}
    foreign = {
        wording.name: template
        for wording in wordings
        for template in (() if wording.label.templates else wording.templates)
        if names[wording.name] and script(expand(template, "")) not in ("", names[wording.name])
    }
    # Chinese and other sentences take Latin words as they are; only where all labels are such is it a mistake.
    if all(kind in ("", "Latin") for kind in names.values()):
        wrong = foreign
    else:
        wrong = {name: template for name, template in foreign.items() if names[name] not in ("", "Latin")}
    if wrong:
        name, template = next(iter(wrong.items()))
        yield (
            f"the prompts are in another language than the label{'s' * (len(wrong) > 1)} {_some(wrong)}, such as "
            f"{expand(template, name)!r}: write both in one, or leave --prompts out"
        )


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return "、".join(shown[:_SHOWN]) + ("…" if len(shown) > _SHOWN else "")


def _models(unread: str) -> str:
    """Two models that read a script, as options of the command line."""
    from clipcls.encoders.catalogue import entries

    fitting = [entry.alias for entry in entries() if entry.languages and reads(entry.languages, unread)]
    return " or ".join(f"--model {alias}" for alias in fitting[:2]) or "a model that reads it"
