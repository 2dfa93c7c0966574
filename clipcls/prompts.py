"""Prompt templates: sets of them, and the prompts that they make of labels.

A template is a sentence with a place for the label. Several of them make a prompt ensemble (Radford et al. 2021,
"Learning Transferable Visual Models From Natural Language Supervision", section 3.1.4): the label is written into
each, and the normalised mean of their embeddings stands for it. A set may give single labels templates of their own,
as descriptions of a class do (Pratt et al. 2023, "What does a platypus look like? Generating customized prompts for
zero-shot image classification", section 3); these need no place for the label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clipcls.errors import UsageError
from clipcls.labels import Label, composed

PLACEHOLDERS = ("{}", "{label}", "{类别}", "<类别>", "<label>", "{c}")
"""Where the label goes; all mean the same."""

_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates that are used together as an ensemble."""

    name: str
    templates: tuple[str, ...]
    language: str = ""
    """ISO 639-1 code of the templates' language; empty where they have none."""
    description: str = ""
    """When to use it."""
    source: str = ""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Templates of single labels, in place of ``templates``; keys in Unicode's composed form (NFC)."""

    def for_label(self, name: str) -> tuple[str, ...]:
        """The templates for a label of that name; empty if the set has none."""
        return self.labels.get(composed(name), self.templates)


@dataclass(frozen=True, slots=True)
class Wording:
    """One name of a label, and the templates that it is written into."""

    label: Label
    name: str
    templates: tuple[str, ...]

    @property
    def prompts(self) -> list[str]:
        """The name written into each template."""
        return [expand(template, self.name) for template in self.templates]


def expand(template: str, label: str) -> str:
    """The template with the label in place of every placeholder; other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda _: label, template)


def placeholders(template: str) -> list[re.Match[str]]:
    """Where the label goes."""
    return list(_PLACEHOLDER.finditer(template))


def union(sets: Sequence[PromptSet]) -> PromptSet:
    """One set in which every label has the templates that it has in any of the sets."""
    if len(sets) == 1:
        return sets[0]

    def joined(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(template for part in parts for template in part))

    named = dict.fromkeys(name for prompt_set in sets for name in prompt_set.labels)
    return PromptSet(
        name="+".join(prompt_set.name for prompt_set in sets),
        templates=joined(prompt_set.templates for prompt_set in sets),
        labels={name: joined(prompt_set.for_label(name) for prompt_set in sets) for name in named},
    )


def wordings(labels: Iterable[Label], choose: Callable[[str], PromptSet]) -> tuple[Wording, ...]:
    """Every name of every label, in order, with the label's own templates or those of the set chosen for the name.

    Raises:
        UsageError: a set has templates only for other labels.
    """
    found = []
    for label in labels:
        for name in label.names:
            prompt_set = choose(name)
            templates = label.templates or prompt_set.for_label(name)
            if not templates:
                raise UsageError(
                    f"the prompt set {prompt_set.name} has no prompts for the label {name!r}: add some, or a second "
                    "--prompts with templates for any label"
                )
            found.append(Wording(label, name, templates))
    return tuple(found)
