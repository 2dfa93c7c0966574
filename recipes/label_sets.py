"""Write the label sets in prompts/labels/: the classes of ImageNet-1k and CIFAR-10, in English and in Chinese.

    python recipes/label_sets.py

ImageNet's English names are OpenAI's, published with CLIP (github.com/openai/CLIP,
notebooks/Prompt_Engineering_for_ImageNet.ipynb) under the MIT licence and read from open_clip; the WordNet ids in class
order come with timm (github.com/huggingface/pytorch-image-models, Apache-2.0 licence). The Chinese names are our own:
recipes/starter/names/imagenet-zh.txt. CIFAR-10's ten names are those of Krizhevsky 2009, "Learning Multiple Layers of
Features from Tiny Images"; their groups and Chinese names are our own.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import open_clip
from timm.data import ImageNetInfo

LABELS = Path(__file__).parent.parent / "prompts" / "labels"
CHINESE = Path(__file__).parent / "starter" / "names" / "imagenet-zh.txt"

Entry = dict[str, str | list[str]]

OPENAI = "github.com/openai/CLIP, MIT licence, Copyright (c) 2021 OpenAI, read from open_clip_torch"
TIMM = "WordNet ids: timm, Apache-2.0 licence"
KRIZHEVSKY = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images (the names of its classes only)"
RECIPE = "written by recipes/label_sets.py"

CIFAR = {
    "airplane": ("vehicle", "飞机", []),
    "automobile": ("vehicle", "汽车", ["小汽车"]),
    "bird": ("animal", "鸟", []),
    "cat": ("animal", "猫", []),
    "deer": ("animal", "鹿", []),
    "dog": ("animal", "狗", []),
    "frog": ("animal", "青蛙", []),
    "horse": ("animal", "马", []),
    "ship": ("vehicle", "船", ["轮船"]),
    "truck": ("vehicle", "卡车", ["货车"]),
}
GROUPS = {"animal": "动物", "vehicle": "交通工具"}


def label_sets() -> dict[str, str]:
    """The text of each label set's file, by the set's name."""
    ids, english = ImageNetInfo().label_names(), open_clip.IMAGENET_CLASSNAMES
    chinese = without_shared_synonyms([line.split("/") for line in CHINESE.read_text(encoding="utf-8").splitlines()])
    return {
        "imagenet-1k": _toml(
            "imagenet-1k",
            "en",
            "The 1,000 classes of ImageNet (ILSVRC 2012) in their usual order: to compare with published figures, "
            "or as a broad list of everyday objects and animals.",
            f"names: {OPENAI}; {TIMM}; {RECIPE}",
            [{"id": wnid, "name": name} for wnid, name in zip(ids, english, strict=True)],
        ),
        "imagenet-1k-zh": _toml(
            "imagenet-1k-zh",
            "zh",
            "ImageNet（ILSVRC 2012）的 1000 个类别，按原来的顺序，用中文名称：适合和公开的成绩比较，"
            "也可以当作常见物体和动物的大词表。",
            f"Chinese names: clipcls, our own; English names: {OPENAI}; {TIMM}; {RECIPE}",
            [
                {"id": wnid, "name": name, "synonyms": synonyms, "description": description}
                for wnid, (name, *synonyms), description in zip(ids, chinese, english, strict=True)
            ],
        ),
        "cifar-10": _toml(
            "cifar-10",
            "en",
            "The 10 classes of CIFAR-10, six animals and four vehicles: for a quick try on small pictures.",
            f"names: {KRIZHEVSKY}; groups: clipcls, our own; {RECIPE}",
            [{"name": name, "group": group} for name, (group, _, _) in CIFAR.items()],
        ),
        "cifar-10-zh": _toml(
            "cifar-10-zh",
            "zh",
            "CIFAR-10 的 10 个类别，六种动物和四种交通工具，用中文名称：适合拿小图片快速试一试。",
            f"classes: {KRIZHEVSKY}; Chinese names and groups: clipcls, our own; {RECIPE}",
            [{"name": name, "synonyms": synonyms, "group": GROUPS[group]} for group, name, synonyms in CIFAR.values()],
        ),
    }


def without_shared_synonyms(names: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each label's name and synonyms, without the synonyms that another label has as its name or synonym.

    A synonym that two labels share, as 大象 for both of ImageNet's elephants, says nothing about which is meant.
    """
    uses = Counter(each for label in names for each in {_normal(name) for name in label})
    return [[first, *(name for name in further if uses[_normal(name)] == 1)] for first, *further in names]


def _normal(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _toml(name: str, language: str, description: str, source: str, labels: Sequence[Entry]) -> str:
    lines = [
        f"name = {_string(name)}",
        f"language = {_string(language)}",
        f"description = {_string(description)}",
        f"source = {_string(source)}",
        "labels = [",
        *(
            f"  {{ {', '.join(f'{key} = {_string(value)}' for key, value in label.items() if value)} }},"
            for label in labels
        ),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _string(value: str | list[str]) -> str:
    """JSON's strings, and lists of them, are TOML's too."""
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    LABELS.mkdir(exist_ok=True)
    for name, text in label_sets().items():
        (LABELS / f"{name}.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
