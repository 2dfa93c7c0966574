"""Tokens without torch are those of open_clip and transformers, one by one, on 10,000 prompts in several scripts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcls import load_prompts
from clipcls.encoders import openclip, towers
from clipcls.encoders.inputs import Prompts
from clipcls.encoders.spec import STARTER_FOLDER
from clipcls.encoders.traced import Cleaning, TextFacts
from clipcls.labelfiles import load_labels
from clipcls.labels import script

_WORDS = {
    "Japanese": "猫 コーヒー 象 ロケット 山の上の白い家 りんごと梨 東京タワー ｶﾀｶﾅ",
    "Hangul": "고양이 커피 코끼리 로켓 산 위의 하얀 집 사과와 배 서울",
    "Cyrillic": "кошка кофе слон ракета белый дом на горе яблоко Москва ЁЛКА",
    "Arabic": "قطة قهوة فيل صاروخ بيت أبيض على الجبل تفاحة القاهرة",
    "Greek": "γάτα καφές ελέφαντας πύραυλος λευκό σπίτι στο βουνό ΜΉΛΟ",
    "Hebrew": "חתול קפה פיל רקטה בית לבן על ההר תפוח",
    "Devanagari": "बिल्ली कॉफ़ी हाथी रॉकेट पहाड़ पर सफ़ेद घर सेब",
    "Thai": "แมว กาแฟ ช้าง จรวด บ้านสีขาวบนภูเขา แอปเปิล",
    "Latin": "ÉLÉPHANT naïve Straße İstanbul søster ﬁne cafe\u0301 mañana don't we'll THEY'RE",
}
_ODD = (
    "☃ 🚀 👩‍🚀 ＡＢＣ １２３ &amp; &lt;b&gt; â€™ _ __x__ #1 $9.99 \u3000 \u200d \t \n “q” ‘s’ … — "
    "<s> </s> [SEP] <end_of_text> 𠀀 \ufeff"
)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Labels and prompts: the 1,000 classes in English and Chinese in many templates, other scripts, odd characters."""
    dice = random.Random(0)
    templates = [t for name in ("zh", "imagenet-80") for t in load_prompts(name).templates]
    labels = [label.name for name in ("imagenet-1k", "imagenet-1k-zh") for label in load_labels(name).labels]
    words, odd = [text.split(" ") for text in _WORDS.values()], _ODD.split(" ")
    made = dict.fromkeys(labels)
    while len(made) < 10_000:
        name = (
            dice.choice(labels)
            if dice.random() < 0.5
            else " ".join(dice.choices(dice.choice(words), k=dice.randint(1, 4)))
        )
        if dice.random() < 0.3:
            name = name + dice.choice(["", " "]) + " ".join(dice.choices(odd, k=dice.randint(1, 3)))
        template = dice.choice([*templates, "{}", "{}" * 30])
        made[template.replace("{类别}", name).replace("{}", name)] = None
    return list(made)


def facts(cleaning: Cleaning, context: int, padding: int, **others: Any) -> TextFacts:
    return TextFacts(cleaning, context, padding, **({"full": False, "dropped": None, "first": {}} | others))


def assert_equal(tokenizer: Any, known: TextFacts, prompts: list[str], expected: Any, folder: Path) -> None:
    """Token by token, and after them padding alone."""
    tokenizer.save(str(folder / "tokens.json"))
    rows = Prompts(known, folder / "tokens.json").ids(prompts)
    stacked = np.full((len(rows), known.context), known.padding, np.int64)
    for at, row in enumerate(rows):
        stacked[at, : len(row)] = row
    wrong = np.where((stacked[:, : expected.shape[1]] != expected).any(axis=1))[0]
    assert not len(wrong), [(prompts[at], rows[at].tolist(), expected[at].tolist()) for at in wrong[:3]]
    assert len({len(row) for row in rows}) > 10 and len(np.unique(stacked)) > 1000


def test_clips_own(prompts: list[str], tmp_path: Path) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer(context_length=77)
    assert_equal(towers._bpe(theirs), facts("lower", 77, 0), prompts, theirs(prompts).numpy(), tmp_path)


def test_xlm_robertas(prompts: list[str], tmp_path: Path) -> None:
    """The starter's, which is XLM-RoBERTa's with fewer pieces."""
    from open_clip.tokenizer import HFTokenizer

    theirs = HFTokenizer(str(STARTER_FOLDER), context_length=64)
    assert_equal(
        towers._backend(theirs.tokenizer), facts("whitespace", 64, 1), prompts, theirs(prompts).numpy(), tmp_path
    )


def trained(tokenizer: Any, prompts: list[str], folder: Path) -> str:
    """A tokenizer of the same kind that has learned its pieces from the prompts."""
    tokenizer.train_new_from_iterator(prompts, 4000).save_pretrained(folder)
    return str(folder)


def siglip2(prompts: list[str], folder: Path) -> str:
    from transformers import Siglip2Tokenizer

    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"]
    start = Siglip2Tokenizer(vocab={piece: i for i, piece in enumerate(marks)}, merges=[], padding_side="right")
    return trained(start, prompts, folder)


def nllb(prompts: list[str], folder: Path) -> str:
    from transformers import NllbTokenizer

    marks = ["<s>", "<pad>", "</s>", "<unk>", "▁"]
    return trained(NllbTokenizer(vocab={piece: i for i, piece in enumerate(marks)}, merges=[]), prompts, folder)


@pytest.mark.parametrize("cleaning", ["canonicalize", "whitespace"])
def test_siglip2s(cleaning: Cleaning, prompts: list[str], tmp_path: Path) -> None:
    from open_clip.tokenizer import HFTokenizer

    theirs = HFTokenizer(siglip2(prompts, tmp_path / "model"), context_length=64, clean=cleaning)
    known = facts(cleaning, 64, theirs.tokenizer.pad_token_id, full=True)
    assert_equal(towers._backend(theirs.tokenizer), known, prompts, theirs(prompts).numpy(), tmp_path)


def test_nllbs_with_the_language_of_each_prompt(prompts: list[str], tmp_path: Path) -> None:
    from open_clip.tokenizer import HFTokenizer

    theirs = HFTokenizer(nllb(prompts, tmp_path / "model"), context_length=77)
    inner, expected = theirs.tokenizer, np.empty((len(prompts), 77), np.int64)
    for code in sorted(set(openclip._SOURCES.values())):
        inner.src_lang = code
        rows = [at for at, text in enumerate(prompts) if openclip._SOURCES.get(script(text), "eng_Latn") == code]
        if rows:
            expected[rows] = theirs([prompts[at] for at in rows]).numpy()
    first = {name: int(inner.convert_tokens_to_ids(code)) for name, code in openclip._SOURCES.items()}
    assert len(set(expected[:, 0].tolist())) > 8
    known = facts("whitespace", 77, inner.pad_token_id, first=first)
    assert_equal(towers._backend(inner), known, prompts, expected, tmp_path)


def test_chinese_clips(prompts: list[str], tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertTokenizer

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained(BertTokenizer(vocab={piece: i for i, piece in enumerate(marks)}), prompts, tmp_path / "model")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    cleaned = [text.lower().translate(str.maketrans("“”", '""')) for text in prompts]
    expected = theirs(cleaned, padding=True, truncation=True, max_length=52, return_tensors="np").input_ids
    known = facts("chinese_clip", 52, theirs.pad_token_id)
    assert_equal(towers._backend(theirs), known, prompts, expected, tmp_path)
