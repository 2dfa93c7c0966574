"""Sentences around a name: what the text tower trains on, and what its figures are measured with."""

from __future__ import annotations

import random

ENGLISH = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of {}",
    "a picture of a {}",
    "an image of a {}.",
    "a close-up photo of a {}.",
    "a good photo of a {}",
    "This is a photo of a {}",
    "{} photo",
    "a bad photo of the {}.",
    "a blurry photo of a {}.",
    "a cropped photo of the {}.",
    "a drawing of a {}.",
    "a sketch of the {}",
    "a painting of a {}.",
    "a black and white photo of the {}.",
    "there is a {} in the picture",
    "a photo of many {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a bright photo of the {}.",
    "a photo of my {}",
    "itap of a {}.",
    "the {}",
    "a {}",
    "one {} on a table",
    "a low resolution photo of a {}.",
    "this picture shows a {}",
    "a centered image of a {}",
    "an illustration of a {}",
    "{}, a photograph",
    "a photo of a {}, taken outdoors.",
)
CHINESE = (
    "一张{}的照片",
    "这是一张有关{}的照片",
    "一张{}的图片",
    "照片里有{}",
    "{}的照片",
    "一幅{}的图像",
    "图中是{}",
    "一张{}的特写",
    "这是{}",
    "图片里有一个{}",
    "一张模糊的{}照片",
    "一张黑白的{}照片",
    "一幅{}的画",
    "{}的素描",
    "一张很好的{}照片",
    "有{}的画面",
    "我拍的{}",
    "拍摄的是{}",
    "一张裁剪过的{}照片",
    "一张关于{}的图片",
    "一张低分辨率的{}照片",
    "很多{}",
    "一个小小的{}",
    "一个大大的{}",
    "{}图片",
    "桌子上的{}",
    "这张照片拍的是{}。",
    "户外的{}",
    "照片中可以看到{}。",
    "{}的插图",
    "一张明亮的{}照片",
    "图中有一只{}",
)
MEASURED = {"en": ("a photo of a {}.", "a photo of the {}."), "zh": ("一张{}的照片", "这是一张有关{}的照片")}
"""The templates of the figures "templated"; the mean of the two stands for the label."""


def dressed(name: str, language: str, chance: random.Random) -> str:
    """A name, two times in three bare, else in a sentence."""
    if chance.random() < 0.65:
        return name[:1].upper() + name[1:] if language == "en" and chance.random() < 0.1 else name
    text = chance.choice(ENGLISH if language == "en" else CHINESE).replace("{}", name)
    if language == "en" and name[:1].lower() in "aeiou":
        text = text.replace(f" a {name}", f" an {name}")
    if chance.random() < 0.1:
        text = text.rstrip(".。")
    return text.lower() if language == "en" and chance.random() < 0.1 else text
