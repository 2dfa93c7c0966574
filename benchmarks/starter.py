"""What the starter costs: ``python benchmarks/starter.py [answer|tower|agreement|all]``.

answer      one uncached picture and three new Chinese labels, ``--no-cache``, whole process.
tower       images a second of the starter's image tower through ONNX Runtime and of ViT-B-32's (random weights)
            through torch, taking turns on the same CPU.
agreement   the starter through ONNX Runtime against the starter through torch, on tests/images.

The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from main_job import (
    ARCHITECTURE,
    CLIPCLS,
    LABELS,
    PHOTOS,
    REPEATS,
    Bench,
    Row,
    imports,
    lasted,
    main,
    random_model,
    run,
)

PICTURE = next(path for path in PHOTOS if path.stem == "chelsea")
IMAGES = 320
LEAST_COSINE = 0.99999


def of_answer(bench: Bench) -> Iterator[Row]:
    words = ["classify", PICTURE, "--labels", LABELS, "--no-cache"]
    run(CLIPCLS, *words)  # brings the files into memory
    runs = [run(CLIPCLS, *words) for _ in range(REPEATS)]
    seconds = sorted(process.seconds for process in runs)
    yield Row("one picture, three labels, best", seconds[0], "s", at_most=0.8, note=f"median {median(seconds):.3f} s")
    yield Row("  peak memory", max(process.megabytes for process in runs), "MB", at_most=400)
    yield imports(*words)


def of_tower(bench: Bench) -> Iterator[Row]:
    """In turns, so that both towers see the same machine, and in a thread of its own, as the pipeline has it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command has it
    from clipcls.encoders import load_encoder

    encoders = [
        load_encoder(model, device="cpu")[0] for model in ("starter", str(random_model(bench.folder / "model")))
    ]
    files = [PHOTOS[i % len(PHOTOS)] for i in range(bench.images // bench.rounds)]
    batches = [prepared(encoder, files) for encoder in encoders]

    def encode(which: int) -> None:
        size = encoders[which].batch_size
        for start in range(0, len(files), size):
            encoders[which].encode_images(batches[which][start : start + size])

    with ThreadPoolExecutor(1) as thread:

        def rate(which: int) -> float:
            return len(files) / lasted(lambda _: thread.submit(encode, which).result(), files)

        rate(0), rate(1)
        turns = [(rate(0), rate(1)) for _ in range(bench.rounds)]
    ratios = [ours / theirs for ours, theirs in turns]
    ours, theirs = (median(column) for column in zip(*turns, strict=True))
    note = f"{len(turns)} turns of {len(files)} photographs, batches of {encoders[0].batch_size}"
    yield Row("starter, ONNX Runtime", ours, "images/s", note=note)
    yield Row(f"{ARCHITECTURE}, torch", theirs, "images/s", note=f"batches of {encoders[1].batch_size}")
    note = "each turn: " + ", ".join(f"{ratio:.2f}" for ratio in ratios)
    yield Row("  starter against " + ARCHITECTURE, median(ratios), "times", at_least=3, note=note)


def of_agreement(bench: Bench) -> Iterator[Row]:
    from clipcls import load_prompts
    from clipcls.encoders import file_digest, load_encoder
    from clipcls.encoders.locate import locate
    from clipcls.encoders.openclip import OpenClipEncoder
    from clipcls.encoders.spec import parse_spec
    from clipcls.prompts import expand

    spec = parse_spec("starter")
    both = load_encoder("starter", device="cpu")[0], OpenClipEncoder(spec, locate(spec), "cpu", "fp32", file_digest)
    prompts = [expand(template, label) for label in LABELS.split(",") for template in load_prompts("zh").templates]
    for what, (ours, theirs) in {
        f"{len(PHOTOS)} photographs": [encoder.encode_images(prepared(encoder, PHOTOS)) for encoder in both],
        f"{len(prompts)} prompts": [encoder.encode_texts(prompts) for encoder in both],
    }.items():
        cosine = float((ours * theirs).sum(axis=1).min())
        note = f"differs from 1 by {abs(1 - cosine):.1g}"
        yield Row(f"{what}, both paths, least cosine", cosine, "", at_least=LEAST_COSINE, note=note)


def prepared(encoder: Any, files: list[Path]) -> list[Any]:
    """Photographs as the pipeline gives them to the image tower."""
    from clipcls.decode import decode

    return [encoder.preprocess(decode(file.read_bytes(), min_side=encoder.image_size)) for file in files]


if __name__ == "__main__":
    # torch comes last
    raise SystemExit(main({"answer": of_answer, "tower": of_tower, "agreement": of_agreement}, str(__doc__), IMAGES))
