"""The text tower: the first layers of multilingual-e5-small with fewer words, taught where every concept lies.

The loss is CLIP's symmetric contrastive one over a batch of prompts and the places of what they mean, beside the cosine
to that place, with concepts that lie at nearly the same place masked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import e5
import numpy as np
import torch
from concepts import DIM, Concept
from contrast import symmetric
from lexicon import Name, WordNet
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize
from vocabulary import CONTEXT

from prompts import dressed

LAYERS = 6
BATCH = 384
_CHUNKS = 5
"""A batch is computed in so many parts of like length, so that little is padding."""
_RATE = 5e-4
"""AdamW's largest learning rate; warmed up over 50 steps, then a cosine to nearly 0."""
_TEMPERATURE = 0.07
_PICTURE_SHARE = 0.6
"""Of the place of a name that has pictures; the rest is where its meaning lies."""
_PICTURED_OFTEN = 180.0
"""How often a name that has pictures is taught, where a common word has 8 and a class's name about 55."""
_ABSTRACT = 8
"""How much less often the name of an abstraction is taught: pictures show few, and each costs a thing its turn."""
_ALIKE = 0.95
"""Cosine above which two places are the same concept."""
CHOICES = (_RATE, _TEMPERATURE, _PICTURE_SHARE, _PICTURED_OFTEN, _ABSTRACT, _ALIKE)
"""What a tower changes with."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Names with the places of what they mean."""

    names: list[tuple[str, str]]
    """Name and language, ``en`` or ``zh``."""
    places: Tensor
    """float32 [names, 384], unit rows: of a name with several senses, their mean by use."""
    shares: np.ndarray
    """How often each is drawn: float64 [names], sums to 1."""

    def draw(self, count: int, dice: np.random.Generator, chance: random.Random) -> tuple[list[str], Tensor]:
        """Different names, each bare or in a sentence, and their places."""
        rows = dice.choice(len(self.names), count, replace=False, p=self.shares)
        return [dressed(*self.names[row], chance) for row in rows], self.places[rows]


def corpus(
    wordnet: WordNet, concepts: Sequence[Concept], places: Tensor, classes: Mapping[str, Name],
    pairs: Sequence[tuple[str, str]], hidden: frozenset[str] = frozenset(),
    pictured: Mapping[tuple[str, str], Tensor] | None = None,
) -> Corpus:  # fmt: skip
    """Every name of every concept.

    Args:
        wordnet: how often a name is used for which sense.
        concepts: what is taught.
        places: where each lies, float32 [concepts, 384].
        classes: ImageNet's classes, whose names count most.
        pairs: Chinese words with English ones, whose places are joined.
        hidden: classes that must stay unknown: neither they nor any of their own names is taught.
        pictured: names and languages of which there are pictures, with the place of these: float32 [384].
    """
    unsaid = frozenset().union(*(_own(wordnet, each, classes) for each in concepts if each.offset in hidden))
    senses: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row, concept in enumerate(concepts):
        for language, names in (("en", concept.english), ("zh", concept.chinese)):
            for name in names:
                if concept.offset not in hidden and name.lower() not in unsaid:
                    use = _use(wordnet, concept, name, classes)
                    senses.setdefault((name, language), []).append((row, use))
    above = frozenset().union(*(wordnet.ancestors(offset) for offset in classes))
    taught = {
        key: (sum(use * places[row] for row, use in found), _share(key[0], found, concepts, classes, above))
        for key, found in senses.items()
    }
    _join_pairs(taught, [pair for pair in pairs if unsaid.isdisjoint(word.lower() for word in pair)])
    _join_pictures(taught, {key: place for key, place in (pictured or {}).items() if key[0].lower() not in unsaid})
    shares = np.array([share for _, share in taught.values()])
    stacked = normalize(torch.stack([place for place, _ in taught.values()]), dim=1)
    return Corpus(list(taught), stacked, shares / shares.sum())


def _own(wordnet: WordNet, concept: Concept, classes: Mapping[str, Name]) -> set[str]:
    """A class's names in lower case, without those of what it is a kind of: to hide 虎斑猫 is not to hide 猫."""
    above = {
        name.lower()
        for offset in wordnet.ancestors(concept.offset) - {concept.offset}
        for name in (*wordnet.synsets[offset].english, *wordnet.synsets[offset].chinese)
    }
    plainest = {names[0].lower() for names in (classes[concept.offset].english, classes[concept.offset].chinese)}
    return plainest | {name.lower() for name in (*concept.english, *concept.chinese)} - above


def _is_plain(name: str, offset: str, classes: Mapping[str, Name]) -> bool:
    return offset in classes and name in (*classes[offset].english, *classes[offset].chinese)


def _use(wordnet: WordNet, concept: Concept, name: str, classes: Mapping[str, Name]) -> float:
    """How much of a name's meaning is this concept; for a class's own name nearly all."""
    if concept.offset in classes:
        return 60.0 if _is_plain(name, concept.offset, classes) else 4.0
    return wordnet.synsets[concept.offset].uses.get(name.lower(), 0.3)


def _share(
    name: str, found: Sequence[tuple[int, float]], concepts: Sequence[Concept], classes: Mapping[str, Name],
    above: frozenset[str],
) -> float:  # fmt: skip
    """How often a name is taught: more for common words, for classes and what is above them, less for abstractions."""
    share = 1 + 0.5 * math.log1p(sum(use for _, use in found))
    meant = [concepts[row] for row, _ in found]
    if any(concept.offset in classes for concept in meant):
        share *= 9 if any(_is_plain(name, concept.offset, classes) for concept in meant) else 3
    if any(concept.offset in above for concept in meant):
        share *= 2
    return share if any(concept.physical for concept in meant) else share / _ABSTRACT


def _join_pairs(taught: dict[tuple[str, str], tuple[Tensor, float]], pairs: Sequence[tuple[str, str]]) -> None:
    """Move each Chinese word towards the English one that it is paired with, and teach both often."""
    known = {name.lower(): (name, language) for name, language in taught if language == "en"}
    for chinese, english in pairs:
        if (key := known.get(english.lower())) is None:
            continue
        place = normalize(taught[key][0], dim=0)
        taught[key] = (place, max(taught[key][1], 8.0))
        own, share = taught.get((chinese, "zh"), (torch.zeros(DIM), 0.0))
        taught[chinese, "zh"] = (normalize(own, dim=0) + place, max(share, 8.0))


def _join_pictures(
    taught: dict[tuple[str, str], tuple[Tensor, float]], pictured: Mapping[tuple[str, str], Tensor]
) -> None:
    """Move each name towards its pictures, and teach it most often of all."""
    for key, place in pictured.items():
        own, _ = taught.get(key, (place, 0.0))
        taught[key] = (_PICTURE_SHARE * place + (1 - _PICTURE_SHARE) * normalize(own, dim=0), _PICTURED_OFTEN)


class TextTower(nn.Module):
    """Mean-pooled BERT and a linear projection."""

    def __init__(self, tensors: dict[str, Tensor], tokenizer: str) -> None:
        super().__init__()
        self.bert = e5.bert(tensors, LAYERS, CONTEXT)
        self.projection = nn.Linear(e5.WIDTH, DIM, bias=False)
        self.centre = nn.Parameter(torch.zeros(e5.WIDTH))
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.tokenizer.enable_truncation(CONTEXT)

    def forward(self, texts: Sequence[str], chunks: int) -> Tensor:
        """Embeddings: float32 [texts, 384], unit rows."""
        return normalize(self.projection(self.pooled(texts, chunks) - self.centre), dim=1)

    def pooled(self, texts: Sequence[str], chunks: int) -> Tensor:
        """Mean of the last hidden states: float32 [texts, 384]."""
        return e5.pooled(self.bert, self.tokenizer, texts, chunks)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings without gradients: float32 [texts, 384], unit rows."""
        return self.eval()(texts, 1 + len(texts) // 256)


@torch.no_grad()
def start_projection(tower: TextTower, texts: Corpus, seed: int) -> None:
    """Set the projection in closed form: ridge regression of the places on the pooled states."""
    drawn, places = texts.draw(6000, np.random.default_rng(seed), random.Random(seed))
    pooled = tower.eval().pooled(drawn, 24)
    centred = pooled - pooled.mean(0)
    scatter = centred.T @ centred / len(pooled)
    scatter += 0.02 * scatter.diag().mean() * torch.eye(len(scatter))
    solved = torch.linalg.solve(scatter, centred.T @ places / len(pooled))
    tower.projection.weight.copy_(solved.T)
    tower.centre.copy_(pooled.mean(0))


def train(
    tower: TextTower, texts: Corpus, steps: int, seed: int,
    report: Callable[[int, float], None] = lambda step, cosine: None,
) -> None:  # fmt: skip
    """Teach the tower; it ends as the running mean of its weights.

    Args:
        tower: trained in place, word embeddings included.
        texts: what is taught.
        steps: how many batches of 384 names.
        seed: of all chance.
        report: called every 50 steps with the step and the mean cosine since the last call.
    """
    dice, chance = np.random.default_rng(seed), random.Random(seed)
    trained = [value for name, value in tower.named_parameters() if "position" not in name and "token_type" not in name]
    optimizer = torch.optim.AdamW(trained, lr=_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    # About an eighth of a short training, lest its mean be where it began.
    kept = torch.optim.swa_utils.get_ema_multi_avg_fn(min(0.995, 1 - 8 / max(steps, 10)))
    average = torch.optim.swa_utils.AveragedModel(tower, multi_avg_fn=kept)
    cosines: list[float] = []
    tower.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, (step + 1) / 50) * (0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02)
        prompts, places = texts.draw(BATCH, dice, chance)
        vectors = tower(prompts, _CHUNKS)
        cosine = (vectors * places).sum(1).mean()
        contrast = symmetric(vectors @ places.T / _TEMPERATURE, places @ places.T > _ALIKE)
        loss = 4 * (1 - cosine) + 0.5 * contrast
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update_parameters(tower)
        cosines.append(cosine.item())
        if (step + 1) % 50 == 0:
            report(step + 1, float(np.mean(cosines[-50:])))
    tower.load_state_dict(average.module.state_dict())
    tower.eval()
