"""Write prompts/imagenet-80.toml and prompts/imagenet-7.toml from the lists that open_clip ships.

    python recipes/imagenet_prompts.py

The 80 templates are OpenAI's for ImageNet, the 7 the subset that OpenAI found by forward selection; both were
published with CLIP (github.com/openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb) under the MIT licence.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import open_clip

PROMPTS = Path(__file__).parent.parent / "prompts"

SETS = {
    "imagenet-80": (
        open_clip.OPENAI_IMAGENET_TEMPLATES,
        "OpenAI's 80 English templates for ImageNet: robust for photographs of objects, and slow.",
    ),
    "imagenet-7": (
        open_clip.SIMPLE_IMAGENET_TEMPLATES,
        "The 7 of OpenAI's 80 English templates that did best on ImageNet: a short ensemble for objects.",
    ),
}


def main() -> None:
    for name, (templates, description) in SETS.items():
        source = (
            f"github.com/openai/CLIP, MIT licence, Copyright (c) 2021 OpenAI; read from open_clip_torch "
            f"{version('open_clip_torch')} by recipes/imagenet_prompts.py"
        )
        lines = [
            f"name = {json.dumps(name)}",
            'language = "en"',
            f"description = {json.dumps(description)}",
            f"source = {json.dumps(source)}",
            "templates = [",
            *(f"  {json.dumps(template('{}'))}," for template in templates),
            "]",
        ]
        (PROMPTS / f"{name}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
