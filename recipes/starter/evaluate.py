"""Measure any model that clipcls loads, on the half of the pictures that reports.

    python recipes/starter/evaluate.py MODEL... --data DIR

DIR is build.py's. Prints a table in Markdown: top-1 in per cent with 95% bootstrap intervals over pictures, and how
near to each other the names of one thing lie.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ingredients
import lexicon
import measures
import numpy as np
import open_clip
from pictures import SMALL, Picture, read, reports, shrunk

from clipcls import Classifier, ClipclsError
from prompts import MEASURED

SETS = (("Caltech-101", "caltech-101", False), (f"Caltech-101 at {SMALL} pixels", "caltech-101", True),
        ("groceries", "groceries", False))  # fmt: skip
DISTRUSTED = 0.05
"""Share of right answers that the cosine to distrust may cost."""


def evaluate(model: str, data: Path) -> Iterator[tuple[str, str]]:
    """Lines of the table: what, and how much."""
    with Classifier.load(model, cache=False) as classifier:
        measured = {title: _answers(classifier, data, *rest) for title, *rest in SETS}
        choosing = _answers(classifier, data, "caltech-101", small=False, reporting=False)
        for title, answers in measured.items():
            labels = answers.cosines["en bare"].shape[1]
            for language in MEASURED:
                mean, low, high = answers.interval(language)
                single = answers.accuracies()
                kinds = ", ".join(f"{kind} {single[f'{language} {kind}']:.1f}" for kind in ("bare", "templated"))
                what = f"{title}, {len(answers.truth)} pictures, {labels} labels, {language}"
                yield what, f"{mean:.1f} ({low:.1f} to {high:.1f}; {kinds})"
        yield from _calibration(measured["Caltech-101"], classifier.info.logit_scale)
        yield from _distrust(choosing, measured["Caltech-101"])
        yield from _names(classifier)


def _answers(
    classifier: Classifier, data: Path, collection: str, small: bool, reporting: bool = True
) -> measures.Answers:
    folders = lexicon.folder_names(collection)
    names = lexicon.labels(folders)
    listed = [picture for picture in read(data, collection, "choose") if reports(picture.name) == reporting]
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


def _distrust(choosing: measures.Answers, reporting: measures.Answers) -> Iterator[tuple[str, str]]:
    """The cosine to distrust, found on one half; what it costs and what it catches, on the other, among 10 labels."""
    least = float(np.quantile(_best_cosines(choosing)[0], DISTRUSTED))
    right, nothing_fits = _best_cosines(reporting)
    costs, catches = (100 * float((cosines < least).mean()) for cosines in (right, nothing_fits))
    yield (
        "cosine to distrust; right answers below it, answers below it where no label fits",
        (f"{least:.2f}; {costs:.0f}%, {catches:.0f}%"),
    )


def _best_cosines(answers: measures.Answers) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the best of 10 labels: where it is right, and where none of the 10 is true."""
    sets = [measures.drawn_sets(answers, kind, 11) for kind in measures.KINDS]
    with_truth = [each[:, :10] for each in sets]
    right = [each.max(1)[each.argmax(1) == 0] for each in with_truth]
    return np.concatenate(right), np.concatenate([each[:, 1:].max(1) for each in sets])


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
    try:
        for pictures in ingredients.PICTURES[1:]:
            ingredients.find(pictures, asked.data, asked.data)
        tables = [list(evaluate(model, asked.data)) for model in asked.models]
    except (ingredients.Missing, ClipclsError) as exc:
        sys.exit(f"evaluate.py: {exc}")
    print("| figure | " + " | ".join(asked.models) + " |")
    print("|---" * (1 + len(tables)) + "|")
    for rows in zip(*tables, strict=True):
        print(f"| {rows[0][0]} | " + " | ".join(value for _, value in rows) + " |")


if __name__ == "__main__":
    main()
