"""Measure any model that clipcls loads, on the half of the pictures that reports.

    python recipes/starter/evaluate.py MODEL... --data DIR

DIR is build.py's. Prints a table in Markdown: top-1 in per cent with 95% bootstrap intervals over pictures, and how
near to each other the names of one thing lie.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lexicon
import measures
import numpy as np
import open_clip
from pictures import SMALL, Picture, read, reports, shrunk

from clipcls import Classifier
from prompts import MEASURED

SETS = (("Caltech-101", "caltech-101", False), (f"Caltech-101 at {SMALL} pixels", "caltech-101", True),
        ("groceries", "groceries", False))  # fmt: skip
DISTRUSTED = 0.05
"""Share of right answers that the cosine to distrust may cost."""


def evaluate(model: str, data: Path) -> Iterator[tuple[str, str]]:
    """Lines of the table: what, and how much."""
    with Classifier.load(model, cache=False) as classifier:
        measured = {title: _answers(classifier, data, *rest) for title, *rest in SETS}
        for title, answers in measured.items():
            labels = answers.cosines["en bare"].shape[1]
            for language in MEASURED:
                mean, low, high = answers.interval(language)
                single = answers.accuracies()
                kinds = ", ".join(f"{kind} {single[f'{language} {kind}']:.1f}" for kind in ("bare", "templated"))
                what = f"{title}, {len(answers.truth)} pictures, {labels} labels, {language}"
                yield what, f"{mean:.1f} ({low:.1f} to {high:.1f}; {kinds})"
        yield from _calibration(measured["Caltech-101"], classifier.info.logit_scale)
        yield from _names(classifier)


def _answers(classifier: Classifier, data: Path, collection: str, small: bool) -> measures.Answers:
    folders = lexicon.folder_names(collection)
    names = sorted(set(folders.values()), key=lambda name: name.english)
    listed = [picture for picture in read(data, collection, "choose") if reports(picture.name)]
    folder = Path(tempfile.mkdtemp())
    try:
        paths = [_write(picture, folder / f"{number:05}", small) for number, picture in enumerate(listed)]
        vectors = classifier.embed_images(paths)
    finally:
        shutil.rmtree(folder)
    truth = [names.index(folders[picture.folder]) for picture in listed]
    return measures.Answers.of(vectors, classifier.embed_texts, names, truth)


def _write(picture: Picture, stem: Path, small: bool) -> Path:
    path = stem.with_suffix(".png" if small else ".jpg")
    if small:
        shrunk(picture.load(), SMALL).save(path)
    else:
        path.write_bytes(picture.data)
    return path


def _calibration(answers: measures.Answers, scale: float) -> Iterator[tuple[str, str]]:
    for count in measures.SETS:
        errors = [
            measures.calibration_error(measures.drawn_sets(answers, kind, count), scale) for kind in measures.KINDS
        ]
        yield f"Caltech-101, expected calibration error, {count} labels", f"{np.mean(errors):.1f}"
    sets = [measures.drawn_sets(answers, kind, 10) for kind in measures.KINDS]
    right = np.concatenate([each.max(1)[each.argmax(1) == 0] for each in sets])
    absent = np.concatenate([each[:, 1:].max(1) for each in sets])
    least = float(np.quantile(right, DISTRUSTED))
    yield (
        f"cosine below which {100 * DISTRUSTED:.0f}% of right answers lie (10 labels), and those where no label fits",
        f"{least:.2f}, {100 * float((absent < least).mean()):.0f}%",
    )


def _names(classifier: Classifier) -> Iterator[tuple[str, str]]:
    """The 1,000 ImageNet names: both languages against each other, bare against the sentence."""
    names = lexicon.imagenet_names(open_clip.IMAGENET_CLASSNAMES)
    words = {"en": [name.english[0] for name in names], "zh": [name.chinese[0] for name in names]}
    bare = {language: classifier.embed_texts(own) for language, own in words.items()}
    same = (bare["en"] * bare["zh"]).sum(1)
    yield "1,000 ImageNet names, English against Chinese, mean cosine", f"{same.mean():.3f}"
    for language, templates in MEASURED.items():
        lows = []
        for template in templates:
            dressed = classifier.embed_texts([template.replace("{}", word) for word in words[language]])
            lows.append(float(np.quantile((bare[language] * dressed).sum(1), 0.05)))
        yield f"the same, {language}, bare against templated, cosine of all but 5%", f"{min(lows):.3f}"


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args()
    tables = [list(evaluate(model, asked.data)) for model in asked.models]
    print("| figure | " + " | ".join(asked.models) + " |")
    print("|---" * (1 + len(tables)) + "|")
    for rows in zip(*tables, strict=True):
        print(f"| {rows[0][0]} | " + " | ".join(value for _, value in rows) + " |")


if __name__ == "__main__":
    main()
