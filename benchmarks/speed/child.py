"""The measured ways, each in a process of its own: ``child.py KIND ARGUMENT ...`` reads jobs and answers, a line each.

A job is ``{"do": METHOD, ...}``; its answer is what the method returns, in JSON. What is timed is timed here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LABELS = ("elephant", "fridge", "ant")
TEMPLATE = "a photo of a {}."


def lasted(step: Callable[[], object]) -> float:
    """How many seconds a step takes."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


class Clipcls:
    """The library, with the store that CLIPCLS_CACHE_DIR names, on the CPU."""

    def __init__(self, model: str, precision: str = "auto") -> None:
        from clipcls import Classifier

        self._classifier = Classifier.load(model, device="cpu", precision=precision)
        self._head = self._classifier.zero_shot(LABELS, prompts=TEMPLATE)
        # The very encoder that the pipeline has.
        self._encoder: Any = self._classifier._embedder._tower.loading().result()
        self._loaders, self._tower = ThreadPoolExecutor(CORES), ThreadPoolExecutor(1)
        self._ready: list[Any] = []

    def about(self) -> dict[str, Any]:
        """By what the towers are run."""
        runtime = "ONNX Runtime" if "onnx" in type(self._encoder).__module__ else "torch"
        return {"runtime": runtime, "batch": self._encoder.batch_size}

    def classify(self, files: list[str]) -> float:
        """End to end, from files to labels; none may come from the store."""
        records: list[Any] = []
        seconds = lasted(lambda: records.extend(self._head.classify(files)))
        assert len(records) == len(files), "a picture got lost"
        assert all(record.ok and not record.cached for record in records), "not computed"
        return seconds

    def decode(self, files: list[str]) -> float:
        """Files to what the tower takes, on all cores."""

        def all_of_them() -> None:
            self._ready = list(self._loaders.map(self._load, files))

        return lasted(all_of_them)

    def prepare(self, file: str) -> float:
        """One file to what the tower takes, in one thread."""
        return lasted(lambda: self._load(file))

    def tower(self) -> float:
        """What was decoded last through the image tower, in a thread of its own as in the pipeline."""
        return lasted(lambda: self._tower.submit(self._encode).result())

    def embed(self, files: list[str]) -> list[list[float]]:
        """Unit rows."""
        rows: list[list[float]] = self._encoder.encode_images([self._load(file) for file in files]).tolist()
        return rows

    def texts(self, labels: list[str], templates: list[str], weights: str) -> float:
        """A head of new labels; its class weights go to a file."""
        import numpy as np

        heads: list[Any] = []
        seconds = lasted(lambda: heads.append(self._classifier.zero_shot(labels, prompts=templates)))
        np.save(weights, heads[0].weights)
        return seconds

    def _load(self, file: str) -> Any:
        from clipcls.decode import decode

        return self._encoder.preprocess(decode(Path(file).read_bytes(), min_side=self._encoder.image_size, name=file))

    def _encode(self) -> None:
        size = self._encoder.batch_size
        for start in range(0, len(self._ready), size):
            self._encoder.encode_images(self._ready[start : start + size])


class OpenClip:
    """open_clip through torch, in float32."""

    def __init__(self, architecture: str, weights: str) -> None:
        import open_clip
        import torch

        self._torch, self._open_clip = torch, open_clip
        self._model, _, self._transform = open_clip.create_model_and_transforms(architecture, pretrained=weights)
        self._model.eval()
        if architecture.startswith("MobileCLIP"):  # as its authors advise: branches are merged, the answer is the same
            from timm.utils import reparameterize_model

            self._model = reparameterize_model(self._model)
        self._tokenizer = open_clip.get_tokenizer(architecture)
        with torch.inference_mode():
            texts = self._tokenizer([TEMPLATE.format(label) for label in LABELS])
            self._texts = self._model.encode_text(texts, normalize=True)

    def one_by_one(self, files: list[str]) -> float:
        """As the README shows: a picture is opened, transformed, encoded, and then the next."""
        return lasted(lambda: [self._probabilities(self._open(file).unsqueeze(0)) for file in files])

    def loader(self, files: list[str], batch: int, workers: int, threads: int) -> float:
        """As pybioclip: a DataLoader opens and transforms, the model takes batches."""
        self._torch.set_num_threads(threads)
        from torch.utils.data import DataLoader

        pictures: Any = _Pictures(files, self._open)

        def all_of_them() -> None:
            seen = sum(len(self._probabilities(some)) for some in DataLoader(pictures, batch, num_workers=workers))
            assert seen == len(files)

        return lasted(all_of_them)

    def prepare(self, file: str) -> float:
        """One file to a tensor, in one thread."""
        self._torch.set_num_threads(1)
        return lasted(lambda: self._open(file))

    def tower(self, count: int, batch: int) -> float:
        """Tensors in memory through the image tower, on all cores."""
        self._torch.set_num_threads(CORES)
        side = self._model.visual.image_size
        height, width = side if isinstance(side, tuple | list) else (side, side)
        pixels = self._torch.randn(batch, 3, height, width)
        with self._torch.inference_mode():
            return lasted(lambda: [self._model.encode_image(pixels, normalize=True) for _ in range(count // batch)])

    def gigaflop(self) -> float:
        """What one picture costs in the image tower, multiplications and additions both counted."""
        from torch.utils.flop_counter import FlopCounterMode

        self._torch.backends.mha.set_fastpath_enabled(False)  # which is not counted
        side = self._model.visual.image_size
        height, width = side if isinstance(side, tuple | list) else (side, side)
        with FlopCounterMode(display=False) as counter, self._torch.no_grad():
            self._model.encode_image(self._torch.randn(1, 3, height, width))
        self._torch.backends.mha.set_fastpath_enabled(True)
        return float(counter.get_total_flops()) / 1e9

    def imagenet(self) -> dict[str, list[str]]:
        """open_clip's class names, and its templates as strings."""
        names = list(dict.fromkeys(self._open_clip.IMAGENET_CLASSNAMES))
        return {"labels": names, "templates": [each("{}") for each in self._open_clip.OPENAI_IMAGENET_TEMPLATES]}

    def texts(self, labels: list[str], templates: list[str], at_once: int, weights: str | None = None) -> list[float]:
        """Its own zero-shot classifier, and how far a file's class weights are from it."""
        import numpy as np

        self._torch.set_num_threads(CORES)
        heads: list[Any] = []
        build = self._open_clip.build_zero_shot_classifier
        seconds = lasted(lambda: heads.append(build(self._model, self._tokenizer, labels, templates, at_once)))
        return [seconds, float(np.abs(np.load(weights) - heads[0].numpy().T).max()) if weights else 0.0]

    def _open(self, file: str) -> Any:
        from PIL import Image

        with Image.open(file) as image:
            return self._transform(image.convert("RGB"))

    def _probabilities(self, pixels: Any) -> Any:
        with self._torch.inference_mode():
            images = self._model.encode_image(pixels, normalize=True)
            return (self._model.logit_scale.exp() * images @ self._texts.T).softmax(-1)


class _Pictures:
    """What a DataLoader takes."""

    def __init__(self, files: list[str], load: Callable[[str], Any]) -> None:
        self._files, self._load = files, load

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: int) -> Any:
        return self._load(self._files[place])


class Transformers:
    """transformers' pipeline through torch, in float32."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import pipeline

        self._torch = torch
        self._pipeline = pipeline("zero-shot-image-classification", model=folder, device="cpu")

    def loader(self, files: list[str], batch: int, workers: int, threads: int) -> float:
        """The pipeline over a list of files."""
        self._torch.set_num_threads(threads)
        options: dict[str, Any] = {"batch_size": batch, "num_workers": workers}
        told = {"candidate_labels": list(LABELS), "hypothesis_template": TEMPLATE}
        return lasted(lambda: self._pipeline(files, **told, **options))


class Product:
    """A float32 matrix product, by numpy and by torch."""

    SIDE = 2048

    def __init__(self) -> None:
        import numpy as np
        import torch

        torch.set_num_threads(CORES)
        dice = np.random.default_rng(0)
        left, right = (dice.standard_normal((self.SIDE, self.SIDE), np.float32) for _ in range(2))
        out = np.empty_like(left)
        tensors = [torch.from_numpy(each) for each in (left, right, out)]
        self._ways: dict[str, Callable[[], object]] = {
            "numpy": lambda: np.matmul(left, right, out),
            "torch": lambda: torch.matmul(tensors[0], tensors[1], out=tensors[2]),
        }

    def gigaflops(self) -> dict[str, float]:
        """The best of a few, by either."""
        flop = 2 * self.SIDE**3 / 1e9
        return {name: flop / min(lasted(way) for _ in range(6)) for name, way in self._ways.items()}


def bare(model: str) -> None:
    """The runtime, the model, and one batch of each kind: what a run cannot do without."""
    from PIL import Image

    from clipcls import Classifier

    with Classifier.load(model, device="cpu") as classifier:
        encoder: Any = classifier._embedder._tower.loading().result()
        encoder.encode_texts([TEMPLATE.format(label) for label in LABELS])
        picture = encoder.preprocess(Image.new("RGB", (320, 240)))
        encoder.encode_images([picture] * encoder.batch_size)


def main(kind: str, *arguments: str) -> None:
    """Answer one job after the other, until there are no more."""
    if kind == "bare":
        return bare(*arguments)
    # What libraries print must not come among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kinds = {"clipcls": Clipcls, "open_clip": OpenClip, "transformers": Transformers, "product": Product}
    worker = kinds[kind](*arguments)
    print("null", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(getattr(worker, job.pop("do"))(**job)), file=answers, flush=True)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
