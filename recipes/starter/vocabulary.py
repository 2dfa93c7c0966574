"""The vocabulary: the part of e5's 250,000 pieces that English and Chinese nouns, glosses and prompts need."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from e5 import BOS, E5, EOS, UNK, WIDTH
from lexicon import WordNet
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CONTEXT = 64
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

_PUNCTUATION = "，。！？；：、“”‘’（）《》【】…—·～￥%°"
_HAN = re.compile(r"[㐀-䶿一-鿿豈-﫿〇]")
_READABLE = re.compile(rf"^▁?[!-~¡-ÿ㐀-䶿一-鿿{_PUNCTUATION}]+$")
_HAN_WORD = re.compile(r"^[一-鿿]{2,3}$")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Pieces with the rows of the embedding table that they start from."""

    tokenizer: str
    """A ``tokenizer.json``."""
    kept: list[int]
    """Rows of e5's table, for the first pieces."""
    born: dict[str, list[int]]
    """Han characters that e5 lacks, each with the rows of its English translations' pieces."""
    mask: int
    """The row of the mask, the last piece."""

    def table(self, words: torch.Tensor, seed: int) -> torch.Tensor:
        """The embedding table at the start: float32 [pieces, 384].

        A new Han character stands between all Han characters and its English translation, with noise to keep
        characters of the same translation apart.
        """
        pieces = [piece for piece, _ in _read_pieces(self.tokenizer)]
        han = words[[row for row, piece in zip(self.kept, pieces, strict=False) if _HAN.fullmatch(piece)]]
        chance = torch.Generator().manual_seed(seed)
        rows = [words[self.kept]]
        for origin in self.born.values():
            start = 0.5 * (han.mean(0) + words[origin].mean(0)) if origin else han.mean(0)
            rows.append((start + 0.5 * han.std() * torch.randn(WIDTH, generator=chance))[None])
        return torch.cat([*rows, words[self.mask][None]])


def tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """A unigram tokenizer (Kudo 2018) as XLM-R's: NFKC, words that begin with ``▁``, ``<s>`` and ``</s>`` around."""
    made = Tokenizer(models.Unigram(pieces, unk_id=UNK, byte_fallback=False))
    made.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return made


def choose(e5: E5, wordnet: WordNet, must: Iterable[str], size: int) -> Vocabulary:
    """Keep the pieces that are used most.

    Args:
        e5: the model whose vocabulary it is.
        wordnet: words and glosses whose spelling counts.
        must: texts that must be spelled as e5 spells them.
        size: how many pieces of e5's to keep.
    """
    full = tokenizer(e5.pieces)
    must = list(must)
    counts = _count(full, wordnet, must)
    last = len(e5.pieces) - 1
    keep = {index for index, (piece, _) in enumerate(e5.pieces) if _always(piece)} - {last}
    for index, (piece, score) in enumerate(e5.pieces):
        if _HAN_WORD.match(piece):  # common though no synset has it
            counts[index] += 2 * min(1, max(0, (score + 14.5) / 2))
    for index, _ in counts.most_common():
        if len(keep) >= size:
            break
        if index < last and _READABLE.match(e5.pieces[index][0]):
            keep.add(index)
    kept = [*range(len(SPECIAL)), *sorted(keep - set(range(len(SPECIAL))))]
    born = _new_characters(full, e5, wordnet, must)
    pieces = [e5.pieces[index] for index in kept] + [(char, -20.0) for char in born] + [("<mask>", 0.0)]
    made = tokenizer(pieces)
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*SPECIAL, "<mask>")])
    return Vocabulary(made.to_str(), kept, born, last)


def _count(full: Tokenizer, wordnet: WordNet, must: list[str]) -> Counter[int]:
    synsets = wordnet.synsets.values()
    english = sorted({name for synset in synsets for name in synset.english})
    counts: Counter[int] = Counter()
    for texts, weight in (
        (english, 1.0),
        ([name.lower() for name in english], 0.5),
        ([name[:1].upper() + name[1:] for name in english], 0.25),
        ([synset.gloss for synset in synsets], 0.2),
        (sorted({name for synset in synsets for name in synset.chinese}), 3.0),
        (must, 1e6),
    ):
        for encoding in full.encode_batch(texts, add_special_tokens=False):
            for index in encoding.ids:
                counts[index] += weight
    return counts


def _always(piece: str) -> bool:
    """Every single character of Latin-1, of Chinese writing and of its punctuation."""
    bare = piece.strip("▁")
    return len(bare) == 0 or (len(bare) == 1 and (ord(bare) < 256 or bool(_HAN.match(bare)) or bare in _PUNCTUATION))


def _new_characters(full: Tokenizer, e5: E5, wordnet: WordNet, must: list[str]) -> dict[str, list[int]]:
    known = {piece.strip("▁") for piece, _ in e5.pieces}
    meant: dict[str, list[str]] = {char: [] for text in must for char in text if _HAN.match(char) and char not in known}
    for synset in wordnet.synsets.values():
        for char in "".join(synset.chinese):
            if _HAN.match(char) and char not in known:
                meant.setdefault(char, []).extend(synset.english[:2])
    return {
        char: [
            index
            for encoding in full.encode_batch(sorted(set(words))[:60], add_special_tokens=False)
            for index in encoding.ids
        ]
        for char, words in sorted(meant.items())
    }


def _read_pieces(text: str) -> list[tuple[str, float]]:
    return [(piece, score) for piece, score in json.loads(text)["model"]["vocab"]]
