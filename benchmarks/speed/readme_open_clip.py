"""open_clip's README, with weights from a file: ``readme_open_clip.py ARCHITECTURE WEIGHTS IMAGE LABEL ...``."""

from __future__ import annotations

import sys

import open_clip
import torch
from PIL import Image

architecture, weights, path, *labels = sys.argv[1:]
model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=weights)
model.eval()
tokenizer = open_clip.get_tokenizer(architecture)

image = preprocess(Image.open(path)).unsqueeze(0)
text = tokenizer([f"a photo of a {label}." for label in labels])

with torch.no_grad():
    image_features = model.encode_image(image)
    text_features = model.encode_text(text)
    image_features /= image_features.norm(dim=-1, keepdim=True)
    text_features /= text_features.norm(dim=-1, keepdim=True)
    text_probs = (100.0 * image_features @ text_features.T).softmax(dim=-1)

print("Label probs:", text_probs)
