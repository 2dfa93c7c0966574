"""Sort images by labels nobody trained on: zero-shot image classification with CLIP.

    from clipcls import Classifier

    clf = Classifier.load("starter")
    head = clf.zero_shot(["大象", "冰箱", "蚂蚁"], prompts="zh")
    for p in head.classify(["./imgs"], top_k=3):
        print(p.path, p.top.label, p.top.probability) if p.ok else print(p.path, p.error)

Names are loaded when they are first used (PEP 562), so that importing clipcls costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipcls.classifier import Classifier as Classifier
    from clipcls.errors import ClipclsError as ClipclsError
    from clipcls.heads import ZeroShotClassifier as ZeroShotClassifier
    from clipcls.labelfiles import load_labels as load_labels
    from clipcls.labelled import LabelledFolder as LabelledFolder
    from clipcls.labelled import LabelledImages as LabelledImages
    from clipcls.labels import Label as Label
    from clipcls.promptfiles import load_prompts as load_prompts
    from clipcls.prompts import PromptSet as PromptSet
    from clipcls.records import EncoderInfo as EncoderInfo
    from clipcls.records import Failure as Failure
    from clipcls.records import GroupScore as GroupScore
    from clipcls.records import ImageRef as ImageRef
    from clipcls.records import Prediction as Prediction
    from clipcls.records import Score as Score
    from clipcls.sources import ImageSource as ImageSource

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "classifier",
    "ClipclsError": "errors",
    "EncoderInfo": "records",
    "Failure": "records",
    "GroupScore": "records",
    "ImageRef": "records",
    "ImageSource": "sources",
    "Label": "labels",
    "LabelledFolder": "labelled",
    "LabelledImages": "labelled",
    "Prediction": "records",
    "PromptSet": "prompts",
    "Score": "records",
    "ZeroShotClassifier": "heads",
    "load_labels": "labelfiles",
    "load_prompts": "promptfiles",
}

__all__ = [
    "Classifier",
    "ClipclsError",
    "EncoderInfo",
    "Failure",
    "GroupScore",
    "ImageRef",
    "ImageSource",
    "Label",
    "LabelledFolder",
    "LabelledImages",
    "Prediction",
    "PromptSet",
    "Score",
    "ZeroShotClassifier",
    "__version__",
    "load_labels",
    "load_prompts",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
