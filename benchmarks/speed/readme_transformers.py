"""transformers' zero-shot image classification in three lines: ``readme_transformers.py FOLDER IMAGE LABEL ...``."""

from __future__ import annotations

import sys

from transformers import pipeline

folder, path, *labels = sys.argv[1:]
classifier = pipeline("zero-shot-image-classification", model=folder, device="cpu")
print(classifier(path, candidate_labels=labels, hypothesis_template="a photo of a {}."))
