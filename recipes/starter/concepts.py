"""Where every concept belongs in the shared space: the targets that the towers are taught.

For pictures, a class sits where the image classifier puts it (its weights, whitened) and where its meaning is. For
texts, every concept sits where its meaning lies among the classes: its visual part is a kernel regression on them.
Meaning is made of WordNet position and of e5's vectors of names and gloss.
"""

from __future__ import annotations

import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import e5
import torch
import vocabulary
from lexicon import Name, Synset, WordNet, usable_english
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import normalize

import prompts

DIM = 384
PHYSICAL = "00001930"
"""WordNet's physical entity."""

_GRAPH_SHARE = 0.14  # of meaning; the rest is e5
_GLOSS_SHARE = 0.35  # of what e5 says; the rest is names
_GLOSS_POWER = 0.75
_VISUAL_SHARE = 0.6  # of a target; the rest is meaning
_VISUAL_DIMS = 256
_VISUAL_POWER = 0.75  # 1 whitens the classifier's weights wholly
_GRAPH_POWER = 0.8
_KERNEL_POWER = 1.5
_RIDGE = 0.005
_CLASS_WEIGHT = 6.0  # of a class against any other concept, where the space is cut to DIM dimensions
CHOICES = (
    _GRAPH_SHARE, _GLOSS_SHARE, _GLOSS_POWER, _VISUAL_SHARE, _VISUAL_DIMS, _VISUAL_POWER, _GRAPH_POWER, _KERNEL_POWER,
    _RIDGE, _CLASS_WEIGHT,
)  # fmt: skip
"""What the targets change with."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A synset with the names that are taught, and with what WordNet says it is."""

    offset: str
    english: tuple[str, ...]
    chinese: tuple[str, ...]
    gloss: str
    physical: bool


def choose(wordnet: WordNet, classes: Mapping[str, Name], others: int, chance: Sequence[float]) -> list[Concept]:
    """The concepts to teach, by offset.

    All with names in both languages, all English ones that the tagged texts use, the classes and what is above them,
    and ``others`` more physical ones, the first by ``chance`` (one number a synset).
    """
    above = frozenset().union(*(wordnet.ancestors(offset) for offset in classes))
    draw = dict(zip(sorted(wordnet.synsets), chance, strict=True))
    kept, rest = [], []
    for offset, synset in wordnet.synsets.items():
        physical = PHYSICAL in wordnet.ancestors(offset)
        concept = _concept(synset, classes.get(offset), physical)
        used = max(synset.uses.get(name.lower(), 0) for name in synset.english) >= 2
        if offset in above or (usable_english(synset) and (synset.chinese or used)):
            kept.append(concept)
        elif usable_english(synset) and physical:
            rest.append(concept)
    kept += sorted(rest, key=lambda concept: draw[concept.offset])[:others]
    return sorted(kept, key=lambda concept: concept.offset)


def _concept(synset: Synset, name: Name | None, physical: bool) -> Concept:
    english, chinese = usable_english(synset), synset.chinese
    if name:
        english = list(dict.fromkeys([*name.english, *english]))[:5]
        chinese = list(dict.fromkeys([*name.chinese, *chinese[:2]]))[:4]
    else:
        english, chinese = english[:3] or synset.english[:1], chinese[:3]
    return Concept(synset.offset, tuple(english), tuple(chinese), synset.gloss, physical)


def meanings(model: e5.E5, concepts: Sequence[Concept], classes: Mapping[str, Name], seed: int) -> Tensor:
    """What e5 says of every concept, by its names and by its gloss: float32 [concepts, 768], unit rows."""
    tokenizer = vocabulary.tokenizer(model.pieces)
    tokenizer.enable_truncation(vocabulary.CONTEXT)
    read = functools.partial(e5.encode, e5.bert(model.tensors, model.layers, vocabulary.CONTEXT), tokenizer)
    names = _of_names(read, tokenizer, concepts, classes, seed)
    glosses = _of_glosses(read, concepts)
    return normalize(torch.cat([(1 - _GLOSS_SHARE) ** 0.5 * names, _GLOSS_SHARE**0.5 * glosses], 1), dim=1)


def _of_names(
    read: Callable[[Sequence[str]], Tensor], tokenizer: Tokenizer, concepts: Sequence[Concept],
    classes: Mapping[str, Name], seed: int,
) -> Tensor:  # fmt: skip
    """The mean over a concept's names in both languages, whitened: float32 [concepts, 384], unit rows."""
    chance = random.Random(seed)
    both = [c for c in concepts if c.physical and c.offset not in classes and c.english[0].islower() and c.chinese]
    sentences = [_quadruple(concept, chance) for concept in chance.sample(both, 7000)]
    spoken = [(_plain(concept.english, name, 0), _plain(concept.chinese, name, 1)) for concept in concepts
              for name in [classes.get(concept.offset)]]  # fmt: skip
    texts = list(dict.fromkeys(text for group in (*sentences, *(a + b for a, b in spoken)) for text in group))
    vectors = read(texts)
    known = {text: number for number, text in enumerate(texts)}
    unreadable = {text for text, found in zip(texts, tokenizer.encode_batch(texts), strict=True) if e5.UNK in found.ids}
    centre, matrix = whitening(vectors[[[known[text] for text in four] for four in sentences]])
    white = normalize((vectors - centre) @ matrix, dim=1)
    means = torch.zeros(len(concepts), e5.WIDTH)
    for row, languages in enumerate(spoken):
        for names in languages:
            if readable := [known[name] for name in names if name not in unreadable]:
                means[row] += normalize(white[readable].mean(0), dim=0)
    return normalize(means, dim=1)


def _of_glosses(read: Callable[[Sequence[str]], Tensor], concepts: Sequence[Concept]) -> Tensor:
    """What no name tells, "slow-moving, with a spirally coiled shell", whitened: float32 [concepts, 384], unit rows."""
    vectors = read([concept.gloss for concept in concepts])
    return _whitened(vectors, vectors[[concept.physical for concept in concepts]], e5.WIDTH, _GLOSS_POWER)


def _plain(taught: tuple[str, ...], name: Name | None, language: int) -> tuple[str, ...]:
    return taught if name is None else (name.english, name.chinese)[language]


def _quadruple(concept: Concept, chance: random.Random) -> tuple[str, str, str, str]:
    """A concept in both languages, bare and in a sentence."""
    english, chinese = concept.english[0], concept.chinese[0]
    around = chance.choice(prompts.ENGLISH[:9]), chance.choice(prompts.CHINESE[:9])
    return english, around[0].replace("{}", english), chinese, around[1].replace("{}", chinese)


def whitening(quadruples: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and matrix that take away what language and template add to a meaning, in linear discriminant form.

    Args:
        quadruples: float32 [n, 4, 384], e5's vectors of a concept in English and Chinese, bare and in a sentence.
    """
    between_lists = quadruples.mean(1)
    centre = between_lists.mean(0)
    within = _scatter((quadruples - between_lists[:, None]).flatten(0, 1))
    metric = within + 0.1 * _scatter(between_lists - centre)
    metric += 0.1 * metric.diag().mean() * torch.eye(len(metric))
    values, vectors = torch.linalg.eigh(metric)
    return centre, vectors @ torch.diag(values.rsqrt()) @ vectors.T


def _scatter(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def positions(wordnet: WordNet, concepts: Sequence[Concept], classes: Sequence[str]) -> Tensor:
    """WordNet positions: float32 [concepts, 256], unit rows, 0 where a concept is below no ancestor of classes.

    A sparse vector over the ancestors that cover at least two classes, weighted by how much information content grows
    there, whitened over the classes.
    """
    information = wordnet.information()
    counts = Counter(above for offset in classes for above in wordnet.ancestors(offset))
    nodes = {node: i for i, node in enumerate(sorted(n for n, count in counts.items() if 2 <= count < len(classes)))}
    growth = {
        node: math.sqrt(
            max(0.0, information[node] - max((information[up] for up in wordnet.synsets[node].hypernyms), default=0.0))
        )
        for node in nodes
    }
    sparse = torch.zeros(len(concepts), len(nodes))
    for row, concept in enumerate(concepts):
        for above in wordnet.ancestors(concept.offset) & nodes.keys():
            sparse[row, nodes[above]] = growth[above]
    rows = {concept.offset: row for row, concept in enumerate(concepts)}
    known = sparse[[rows[offset] for offset in classes]]
    return _whitened(sparse, known, 256, _GRAPH_POWER) * (sparse.sum(1) > 0)[:, None]


def _whitened(rows: Tensor, over: Tensor, dims: int, power: float) -> Tensor:
    """Rows in the leading principal directions of others, each shrunk by a power of its singular value: unit rows."""
    centre = over.mean(0)
    _, singular, directions = torch.linalg.svd(over - centre, full_matrices=False)
    basis = directions[:dims].T @ torch.diag((singular[:dims] / singular[0]).pow(-power))
    return normalize((rows - centre) @ basis, dim=1)


@dataclass(frozen=True, slots=True)
class Targets:
    """Places in the shared space."""

    concepts: Tensor
    """For texts: float32 [concepts, 384], unit rows."""
    classes: Tensor
    """For pictures, of all 1,000 classes: float32 [1000, 384], unit rows."""

    def turned_to(self, like: Targets) -> Targets:
        """The same, rotated to where the others lie, as nearly as can be (orthogonal Procrustes: Schönemann 1966)."""
        left, _, right = torch.linalg.svd(self.concepts.T @ like.concepts)
        return Targets(self.concepts @ left @ right, self.classes @ left @ right)


def targets(meanings: Tensor, places: Tensor, weights: Tensor, rows: Sequence[int], seen: Collection[int]) -> Targets:
    """The targets, fitted to the seen classes alone.

    Args:
        meanings: what e5 says of every concept, float32 [concepts, 768], unit rows.
        places: WordNet positions, float32 [concepts, 256], unit rows.
        weights: the image classifier's weights, float32 [1000, 1280].
        rows: each class's row among the concepts.
        seen: numbers of the classes that may be used.
    """
    known = sorted(seen)
    meaning = normalize(torch.cat([_GRAPH_SHARE**0.5 * places, (1 - _GRAPH_SHARE) ** 0.5 * meanings], 1), dim=1)
    known_meaning = meaning[[rows[i] for i in known]]
    visual = _whitened(weights, weights[known], _VISUAL_DIMS, _VISUAL_POWER)

    def kernel(of: Tensor) -> Tensor:
        return (of @ known_meaning.T).clamp_min(0) ** _KERNEL_POWER

    ridge = _RIDGE * len(known) * torch.eye(len(known))
    imagined = normalize(kernel(meaning) @ torch.linalg.solve(kernel(known_meaning) + ridge, visual[known]), dim=1)
    of_concepts = _joined(imagined, meaning)
    of_classes = _joined(visual, meaning[rows])
    weight = torch.ones(len(of_concepts))
    weight[[rows[i] for i in known]] = _CLASS_WEIGHT
    cut = (of_concepts * weight[:, None]).T @ of_concepts + _CLASS_WEIGHT / 2 * of_classes[known].T @ of_classes[known]
    leading = torch.linalg.eigh(cut).eigenvectors[:, -DIM:]
    return Targets(normalize(of_concepts @ leading, dim=1), normalize(of_classes @ leading, dim=1))


def _joined(visual: Tensor, meaning: Tensor) -> Tensor:
    return torch.cat([_VISUAL_SHARE**0.5 * visual, (1 - _VISUAL_SHARE) ** 0.5 * meaning], 1)
