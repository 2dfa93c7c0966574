"""Figures for answers, beside scikit-learn's; calibration, probes and outliers; ``clipcls eval``."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import IMAGES, Terminal
from fakes import FakeDoor, FakeEncoder, picture
from PIL import Image
from sklearn import metrics
from sklearn.calibration import calibration_curve

from clipcls import Classifier, zeroshot
from clipcls.answer import Scores
from clipcls.calibration import calibrated, fit_temperature
from clipcls.cli.eval import _worth
from clipcls.errors import UsageError
from clipcls.evaluation import BINS, Ranked, evaluate
from clipcls.heads import Head
from clipcls.labelled import LabelledFiles, LabelledImages
from clipcls.labels import Label
from clipcls.outliers import outliers
from clipcls.probe import Curve, Shots, curve, learn

Install = Callable[..., FakeDoor]

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
EACH = 6


@pytest.fixture
def folder(here: Path) -> Path:
    """Pictures that are mostly of their colour; one of red is green."""
    for at in range(EACH):
        for name, colour in COLOURS.items():
            shade = tuple(max(0, part - 5 * at) for part in colour)
            picture(here / "标注" / name / f"{at}.png", COLOURS["green"] if (name, at) == ("red", 0) else shade)  # type: ignore[arg-type]
    return Path("标注")


def random_answers(dice: np.random.Generator) -> tuple[Ranked, np.ndarray, np.ndarray, int]:
    """Answers, the truth and all probabilities; of some labels there may be no image, of others no answer."""
    labels, images = int(dice.integers(2, 12)), int(dice.integers(3, 120))
    truth = dice.integers(0, max(2, labels - int(dice.integers(0, 3))), images)
    logits = dice.normal(size=(images, labels)) * dice.uniform(0.2, 5)
    logits[np.arange(images), truth] += dice.uniform(0, 4)
    every = zeroshot.probabilities(logits, 1.0, None, "softmax")
    top = zeroshot.top_k(every, 5)
    return Ranked(top, np.take_along_axis(every, top[:, :1], axis=1)[:, 0]), truth, every, labels


def test_figures_equal_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.evaluation._DRAWS", 2)
    monkeypatch.setattr("clipcls.evaluation._FEWEST_DRAWS", 2)
    dice = np.random.default_rng(0)
    for _ in range(200):
        answers, truth, every, labels = random_answers(dice)
        found = evaluate(answers, truth, tuple(map(str, range(labels))))
        guess, names = answers.top[:, 0], range(labels)
        assert found.top1.value == pytest.approx(metrics.accuracy_score(truth, guess), abs=1e-12)
        if found.top5 is None:
            assert labels <= 5
        else:
            five = metrics.top_k_accuracy_score(truth, every, k=5, labels=list(names))
            assert found.top5.value == pytest.approx(five, abs=1e-12)
        with np.errstate(all="ignore"):
            recall = metrics.recall_score(truth, guess, labels=np.unique(truth), average="macro", zero_division=0)
        assert found.recall.value == pytest.approx(recall, abs=1e-12)
        macro = metrics.f1_score(truth, guess, labels=list(names), average="macro", zero_division=0)
        assert found.macro_f1.value == pytest.approx(macro, abs=1e-12)
        assert np.array_equal(found.confusion, metrics.confusion_matrix(truth, guess, labels=list(names)))
        each = metrics.precision_recall_fscore_support(truth, guess, labels=list(names), zero_division=0)
        ours = [[row.precision, row.recall, row.f1, row.images] for row in found.classes]
        assert np.allclose(np.transpose(each), ours, atol=1e-12)
        right, mean = calibration_curve(guess == truth, answers.probability, n_bins=BINS)
        filled = [row for row in found.reliability if row.images]
        assert np.allclose([row.right for row in filled], right) and np.allclose(
            [row.probability for row in filled], mean
        )
        weights = np.array([row.images for row in filled]) / len(truth)
        assert found.ece.value == pytest.approx(float(weights @ np.abs(right - mean)), abs=1e-12)


def test_the_intervals_are_those_of_drawn_images() -> None:
    dice = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], [40, 25, 60])
    guess = np.where(dice.random(125) < 0.7, truth, dice.integers(0, 3, 125))
    answers = Ranked(np.stack([guess, (guess + 1) % 3, (guess + 2) % 3], axis=1), dice.uniform(0.4, 1, 125))
    found = evaluate(answers, truth, ("a", "b", "c"))
    drawn = []
    for _ in range(2000):
        rows = np.concatenate([dice.choice(np.flatnonzero(truth == each), (truth == each).sum()) for each in range(3)])
        macro = metrics.f1_score(truth[rows], guess[rows], average="macro", labels=[0, 1, 2], zero_division=0)
        drawn.append(((guess == truth)[dice.integers(125, size=125)].mean(), macro))
    for interval, values in zip((found.top1, found.macro_f1), np.array(drawn).T, strict=True):
        assert np.percentile(values, [2.5, 97.5]) == pytest.approx([interval.low, interval.high], abs=0.02)
        assert interval.low < interval.value < interval.high


def test_the_interval_of_the_calibration_error_holds_it() -> None:
    """Answers that are right 8% less often than they say; a percentile interval held that in one of five samples."""
    dice = np.random.default_rng(0)
    held = 0
    for _ in range(20):
        said = dice.uniform(0.3, 1, 100)
        guess = np.where(dice.random(100) < said - 0.08, 0, 1)
        found = evaluate(Ranked(np.stack([guess, 1 - guess], 1), said), np.zeros(100, np.intp), ("a", "b")).ece
        held += found.low <= 0.08 <= found.high
        assert found.low <= found.value <= found.high
    assert held >= 13


def test_a_right_answer_at_every_image_leaves_nothing_to_doubt() -> None:
    truth = np.array([0, 1, 1, 0])
    found = evaluate(Ranked(truth[:, None], np.ones(4)), truth, ("a", "b", "never"))
    assert (found.top1.low, found.top1.value, found.ece.value) == (1.0, 1.0, 0.0)
    assert (found.macro_f1.low, found.macro_f1.value) == pytest.approx((2 / 3, 2 / 3))  # every label counts


def test_labels_that_a_draw_leaves_out_cost_the_macro_f1_nothing() -> None:
    truth = np.arange(50)
    found = evaluate(Ranked(truth[:, None], np.ones(50)), truth, tuple(map(str, truth)))
    assert (found.macro_f1.low, found.macro_f1.value, found.macro_f1.high) == (1, 1, 1)


def test_no_calibration_error_is_above_1() -> None:
    found = evaluate(Ranked(np.array([[0]] + [[1]] * 7), np.full(8, 0.99)), np.zeros(8, np.intp), ("a", "b")).ece
    assert found.low < found.value < found.high <= 1


def test_accuracy_of_a_real_model_computed_independently(here: Path, clipcls: Terminal) -> None:
    import open_clip
    import torch

    model_folder = tiny.make_model(here / "model", tiny.CLIP)
    dice = np.random.default_rng(3)
    for name in ("cat", "dog", "a fridge", "ant", "elephant", "cup"):
        for at in range(4):
            path = here / "labelled" / name / f"{at}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dice.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    words = ("eval", "labelled", "--model", model_folder, "--device", "cpu", "--prompts", "a photo of {}", "--json")
    found = json.loads(clipcls(*words))["evaluation"]

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{model_folder}")
    names = sorted(path.name for path in (here / "labelled").iterdir())
    tokens = open_clip.get_tokenizer(f"local-dir:{model_folder}")([f"a photo of {name}" for name in names])
    right, among = [], []
    with torch.inference_mode():
        texts = model.eval().encode_text(tokens, normalize=True)
        for at, name in enumerate(names):
            for path in sorted((here / "labelled" / name).iterdir()):
                with Image.open(path) as image:
                    vector = model.encode_image(preprocess(image.convert("RGB"))[None], normalize=True)
                order = (vector @ texts.T)[0].argsort(descending=True).tolist()
                right.append(order[0] == at)
                among.append(at in order[:5])
    assert found["top1"]["value"] == pytest.approx(np.mean(right)) and len(right) == found["images"] == 24
    assert found["top5"]["value"] == pytest.approx(np.mean(among))


def test_what_a_person_sees(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    shown = clipcls("eval", folder, "--prompts", "{}", "--outliers", "2")
    assert "top-1,94.4%," in shown and "red,6,100.0%,83.3%,90.9%" in shown
    assert "red,0,1,5" in shown  # the confusion matrix, in the folders' order: blue, green, red
    assert f"{folder}/red/0.png,red," in shown and shown.split(f"{folder}/red/0.png")[1].splitlines()[0].endswith(
        "green"
    )
    assert "18 images" in clipcls.err


def test_unreadable_pictures_are_told_and_left_out(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    (folder / "red" / "broken.jpg").write_bytes(b"")
    found = json.loads(clipcls("eval", folder, "--json", code=3))
    assert found["evaluation"]["images"] == 18 and found["failed"][0]["path"].endswith("broken.jpg")
    assert "broken.jpg: the file is empty" in clipcls.err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_of_the_truth(fake: Install, folder: Path, clipcls: Terminal, encoding: str, mark: str) -> None:
    fake()
    lines = [f"label{mark}Path", *(f"{name}{mark}{name}/{at}.png" for name in COLOURS for at in range(1, EACH))]
    Path("truth.csv").write_text("\r\n".join(lines) + "\r\n", encoding=encoding)
    found = json.loads(clipcls("eval", folder, "--truth", "truth.csv", "--json"))
    assert found["evaluation"]["top1"]["value"] == 1 and found["evaluation"]["images"] == 15


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,name\na,b\n", "its first line must name a column path and a column label"),
        ("path,label\n,red\n", "line 2: a line without path or label"),
        ("path,label\nred/1.png,red\nred/1.png,blue\n", "line 3: 'red/1.png' comes a second time"),
        ("path,label\nred/1.png,pink\n", "labels that are none of those asked for: pink"),
        ('path,label\n"red/1.png,red\n', "not valid CSV"),
    ],
)
def test_a_table_that_cannot_be_used(fake: Install, folder: Path, clipcls: Terminal, text: str, message: str) -> None:
    fake()
    Path("truth.csv").write_text(text)
    clipcls("eval", folder, "--truth", "truth.csv", "--labels", "red,blue", code=2)
    assert message in clipcls.err


def test_paths_of_a_table_start_at_the_folder_and_may_be_gone(fake: Install, folder: Path, here: Path) -> None:
    fake()
    absolute = here / folder / "blue" / "1.png"
    Path("truth.csv").write_text(f"path,label\nred/1.png,red\n{absolute},blue\ngone.png,red\n")
    with Classifier.load("fake/one") as classifier:
        found = classifier.labelled(LabelledFiles(folder, "truth.csv"))
    assert found.paths == (f"{folder}/red/1.png", str(absolute))
    assert [failure.error for failure in found.failures] == ["cannot be read: No such file or directory"]


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_temperature_that_made_the_labels_is_found(true: float, activation: str) -> None:
    dice = np.random.default_rng(5)
    cosines = dice.normal(size=(20_000, 6)) * 0.2
    if activation == "softmax":
        every = zeroshot.probabilities(cosines, 10 / true, None, "softmax")
        truth = (every.cumsum(axis=1) > dice.random((len(every), 1))).argmax(axis=1)
        assert fit_temperature(cosines, truth, 10, None, "softmax") == pytest.approx(true, rel=0.05)
        return
    # Of a sigmoid each label is drawn by itself; images with one label are kept.
    every = zeroshot.probabilities(cosines, 10 / true, -2.0 / true, "sigmoid")
    drawn = dice.random(every.shape) < every
    one = drawn.sum(axis=1) == 1
    found = fit_temperature(cosines[one], drawn[one].argmax(axis=1), 10, -2.0, "sigmoid")
    losses = [
        -np.where(drawn[one], np.log(np.maximum(p, 1e-300)), np.log(np.maximum(1 - p, 1e-300))).mean()
        for p in (
            zeroshot.probabilities(cosines[one], 10 / t, -2 / t, "sigmoid") for t in (found * 0.9, found, found * 1.1)
        )
    ]
    assert losses[1] == min(losses)


def test_copies_of_one_picture_calibrate_nothing(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    for label in ("red", "blue"):
        picture(Path("copies", label, "1.png"))
    clipcls("eval", "copies", "--calibrate", code=2)
    assert "calibration needs two images or more" in clipcls.err


def test_calibrated_probabilities(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    for at in range(3):
        picture(folder / "red" / f"wrong {at}.png", (100, 120 + at, 20))
    clipcls("eval", folder, "--prompts", "{}", "--calibrate", "-o", "calibration.toml", "--json")
    assert "do not rely on this temperature: it was fitted on 10 pictures" in clipcls.err
    written = tomllib.loads(Path("calibration.toml").read_text("utf-8"))
    assert written["labels"] == ["blue", "green", "red"] and written["images"] == 10 and written["model"] == "starter"
    words = ("classify", folder, "--labels", "blue,green,red", "--prompts", "{}", "--top-k", "3")
    plain, calibrated = (clipcls.rows(*words, *more) for more in ((), ("--calibration", "calibration.toml")))
    compared = 0
    for before, after in zip(plain, calibrated, strict=True):
        assert [before[key] for key in ("path", "label", "cosine", "label_2")] == [
            after[key] for key in ("path", "label", "cosine", "label_2")
        ]
        second = [float(row["probability_2"]) for row in (before, after)]
        if min(second) > 1e-3:
            logits = [
                np.log(float(row["probability"]) / each) for row, each in zip((before, after), second, strict=True)
            ]
            assert logits[0] / logits[1] == pytest.approx(written["temperature"], rel=0.02)
            compared += 1
    assert compared

    for wrong, message in [
        (("--labels", "blue,green"), "other labels (they differ in red;"),
        (("--labels", "green,blue,red|rot"), "other prompts, synonyms or background"),
        (("--labels", "blue,green,red", "--prompts", "a {}"), "other prompts, synonyms or background"),
        (("--labels", "blue,green,red", "--background", "pink"), "other prompts, synonyms or background"),
        (("--labels", "blue,green,red", "--multi-label"), "--calibration is for labels that compete"),
    ]:
        given = wrong if "--prompts" in wrong else (*wrong, "--prompts", "{}")
        clipcls("classify", folder, *given, "--calibration", "calibration.toml", code=2)
        assert message in clipcls.err
    fake(fingerprint="oc1-another")
    clipcls(*words, "--no-cache", "--calibration", "calibration.toml", code=2)
    assert "is for the model starter" in clipcls.err


def test_a_calibration_is_not_written_over_and_read_with_care(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    Path("mine.toml").write_text("temperature = 'warm'\n")
    clipcls("eval", folder, "--calibrate", "-o", "mine.toml", code=2)
    assert "mine.toml exists and stays as it is" in clipcls.err
    clipcls("classify", folder, "--labels", "red,blue", "--calibration", "mine.toml", code=2)
    assert "mine.toml: not a calibration" in clipcls.err
    clipcls("eval", folder, "-o", "other.toml", code=2)
    assert "add --calibrate" in clipcls.err
    (folder / "red" / "0.png").unlink()
    clipcls("eval", folder, "--calibrate")
    assert "are right, which tells nothing: it stays 1" in clipcls.err


def some_images(each: int = 30, labels: int = 4, noise: float = 0.45) -> LabelledImages:
    dice = np.random.default_rng(9)
    truth = np.repeat(np.arange(labels), each)
    vectors = np.eye(16)[truth] + dice.normal(size=(len(truth), 16)) * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = tuple(Label(f"label {at}") for at in range(labels))
    return LabelledImages(names, tuple(f"{at}.jpg" for at in range(len(truth))), vectors.astype(np.float32), truth)


def test_probes_learn_more_from_more_images_and_are_judged_on_others() -> None:
    images = some_images()
    told: list[str] = []
    found = curve(images, np.arange(120) % 4 != 0, shots=(1, 2, 4, 8, 16), draws=3, watch=told.append)
    assert [point.shots for point in found.points] == [1, 2, 4, 8, None]  # 15 of each label are learned from
    assert [point.images for point in found.points] == [4, 8, 16, 32, 60] and found.held_out == 60
    assert found.points[0].top1 < found.points[-1].top1 and found.points[-1].top1 > 0.65
    assert found.points[0].spread > 0 and found.points[-1].draws == 1 and len(told) == 5
    assert found.zero_shot == pytest.approx(0.75, abs=0.15)
    # What is judged by is not learned from: labels without meaning stay unknown.
    noise = np.random.default_rng(1).permutation(images.truth)
    shuffled = LabelledImages(images.labels, images.paths, images.vectors, noise)
    assert curve(shuffled, noise == 0, shots=(), draws=1).points[-1].top1 < 0.5


def test_what_zero_shot_is_worth() -> None:
    points = (Shots(1, 4, 0.5, 0, 1), Shots(2, 8, 0.6, 0, 1), Shots(4, 16, 0.8, 0, 1), Shots(None, 99, 0.9, 0, 1))
    assert Curve(10, 0.7, points).worth == pytest.approx(np.sqrt(8))
    assert Curve(10, 0.85, points).worth is None
    assert Curve(10, 0.4, points).worth == 0 and Curve(10, 0.5, points).worth == 1


@pytest.mark.parametrize("labels", [2, 4])
def test_the_probe_is_scikit_learns(labels: int) -> None:
    from sklearn.linear_model import LogisticRegression

    images = some_images(labels=labels)
    weights, bias = learn(images.vectors, images.truth, labels, 0)
    logits = images.vectors.astype(np.float64) @ weights.T + bias
    ours = zeroshot.probabilities(logits, 1.0, None, "softmax")
    theirs = [
        LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
        .fit(images.vectors, images.truth)
        .predict_proba(images.vectors)
        for strength in (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
    ]
    assert min(float(np.abs(ours - each).max()) for each in theirs) < 1e-3


def test_a_probe_is_told_beside_the_zero_shot_classifier(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    told = clipcls("eval", folder, "--prompts", "{}", "--probe", "--draws", "2").splitlines()
    at = told.index("images a label,learned from,top-1,spread,over zero-shot")
    assert [line.split(",")[:2] for line in told[at + 1 :]] == [["1", "3"], ["2", "6"], ["all", "9"]]
    assert "on the same 9 pictures held out; " in clipcls.err


@pytest.mark.parametrize(
    ("zero_shot", "worth"),
    [
        (0.4, "one labelled picture a label is better"),
        (0.7, "it is worth about 2.8 labelled pictures a label"),
        (0.85, "it takes all labelled pictures of the other half to be as good"),
        (0.95, "no probe of these is as good"),
    ],
)
def test_what_zero_shot_is_worth_is_told(zero_shot: float, worth: str) -> None:
    points = (Shots(1, 4, 0.5, 0, 1), Shots(2, 8, 0.6, 0, 1), Shots(4, 16, 0.8, 0, 1), Shots(None, 99, 0.9, 0, 1))
    assert _worth(Curve(50, zero_shot, points)) == worth


def test_of_many_labels_the_commonest_mistakes_are_told(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    for at in range(13):
        picture(Path("many", f"no {at}", "1.png"), COLOURS["blue"])
        picture(Path("many", "blue", f"{at}.png"), COLOURS["blue"])
    told = clipcls("eval", "many", "--prompts", "{}").splitlines()
    rows = told[told.index("shown,called,images") + 1 :]
    assert len(rows) == 10 and all(row.endswith(",blue,1") for row in rows)


def test_a_kept_probe_answers_in_place_of_labels(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    (folder / "red" / "0.png").unlink()
    (folder / "白").mkdir()
    for at in range(4):
        picture(folder / "白" / f"{at}.png", (250, 250, 250 - at))
    found = json.loads(clipcls("eval", folder, "--probe", "--draws", "2", "--save-probe", "head.npz", "--json"))
    assert [point["shots"] for point in found["probe"]["points"]] == [1, 2, None]
    rows = clipcls.rows("classify", folder, "--head", "head.npz", "--top-k", "2")
    assert all(row["path"].split("/")[1] == row["label"] for row in rows) and len(rows) == 21
    assert float(rows[0]["probability"]) + float(rows[0]["probability_2"]) <= 1.000001
    clipcls("classify", folder, "--head", "head.npz", "-o", "out.csv")
    assert len(json.loads(Path("out.csv.run.json").read_text("utf-8"))["head"]) == 64

    clipcls("classify", folder, "--head", "head.npz", "--labels", "red", code=2)
    assert "--head brings its own labels" in clipcls.err
    clipcls("eval", folder, "--save-probe", "head.npz", code=2)
    assert "head.npz exists and stays as it is" in clipcls.err
    Path("broken.npz").write_bytes(b"PK\x03\x04 no")
    for file, message in (("broken.npz", "not a head"), ("gone.npz", "cannot read a head from gone.npz")):
        clipcls("classify", folder, "--head", file, code=2)
        assert message in clipcls.err
    fake(fingerprint="oc1-another")
    clipcls("classify", folder, "--no-cache", "--head", "head.npz", code=2)
    assert "head.npz is for the model starter (oc1-fake)" in clipcls.err


def test_a_head_is_never_unpickled(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    picture(here / "a.png")
    with Path("evil.npz").open("wb") as file:
        np.savez(file, weights=np.array([{"a": 1}], dtype=object))
    clipcls("classify", "a.png", "--head", "evil.npz", code=2)
    assert "not a head" in clipcls.err


def test_without_scikit_learn_the_extra_is_named(
    fake: Install, folder: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = fake()
    monkeypatch.setattr("clipcls.probe.find_spec", lambda name: None)
    clipcls("eval", folder, "--probe", code=2)
    assert "need scikit-learn: pip install 'clipcls[eval]'" in clipcls.err and door.loads == 0


def test_outliers_are_pictures_of_something_else() -> None:
    images = some_images(noise=0.2)
    truth = images.truth.copy()
    truth[[3, 40]] = [2, 3]  # of label 0 and 1
    found = outliers(LabelledImages(images.labels, images.paths, images.vectors, truth), 2)
    assert {each.path for each in found} == {"3.jpg", "40.jpg"}
    assert {each.path: each.nearest for each in found} == {"3.jpg": "label 0", "40.jpg": "label 1"}
    assert len(outliers(images, 1000)) == 120


def test_an_outlier_in_a_folder_of_three_is_nearest_to_where_it_belongs() -> None:
    """Pictures of a label are 0.75 alike, of two labels 0.6; the third and the last have changed places."""
    alike = 0.6 + np.kron(np.eye(2), np.full((3, 3), 0.15)) + 0.25 * np.eye(6)
    vectors = np.linalg.cholesky(alike).astype(np.float32)
    some = some_images()
    images = LabelledImages(some.labels[:2], some.paths[:6], vectors, np.array([0, 0, 1, 1, 1, 0]))
    found = outliers(images, 2)
    assert {each.path: each.nearest for each in found} == {"2.jpg": "label 0", "5.jpg": "label 1"}


def test_eval_of_the_starter_on_photographs(here: Path, clipcls: Terminal) -> None:
    for name, photo in (("猫", "chelsea"), ("咖啡", "coffee"), ("火箭", "rocket")):
        (here / "照片" / name).mkdir(parents=True)
        (here / "照片" / name / "a.jpg").write_bytes((IMAGES / f"{photo}.jpg").read_bytes())
    found = json.loads(clipcls("eval", "照片", "--json"))
    assert found["evaluation"]["top1"]["value"] == 1 and found["model"] == "starter"


def test_json_is_whole_in_a_pipe_and_csv_reads(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake(FakeEncoder(activation="sigmoid"))
    shown = clipcls("eval", folder, "--quiet")
    assert len(list(csv.reader(shown.splitlines()))) > 8 and clipcls.err == ""


def test_a_page_with_figures_and_pictures(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    clipcls("eval", folder, "--prompts", "{}", "--report", "page.html")
    page = Path("page.html").read_text("utf-8")
    assert page.count("data:image/webp") == 18 and '"top1",0.9444' in page and "wrote page.html" in clipcls.err
    clipcls("eval", folder, "--report", "page.html", code=2)
    assert "page.html exists and stays as it is" in clipcls.err
    assert clipcls("eval", folder, "--report", "nowhere/page.html", code=7) == ""
    assert "there is no folder nowhere; create it first" in clipcls.err


def test_a_calibration_does_not_depend_on_the_order_of_labels_nor_on_folders_names(
    fake: Install, folder: Path, clipcls: Terminal
) -> None:
    fake()
    for at in range(3):
        picture(folder / "light_green" / f"{at}.png", (120, 200 + at, 120))
    clipcls("eval", folder, "--prompts", "{}", "--calibrate", "-o", "c.toml")
    words = ("classify", folder, "--prompts", "{}", "--calibration", "c.toml")
    clipcls(*words, "--labels", "red,light green,green,blue")
    clipcls(*words, "--labels", "red,light_green,green,blue", code=2)
    assert "they differ in light green" in clipcls.err or "they differ in light_green" in clipcls.err


def test_the_temperature_is_fitted_on_images_of_all_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def fit(cosines: np.ndarray, truth: np.ndarray, *_: object) -> float:
        seen.append(truth)
        return 1.0

    monkeypatch.setattr("clipcls.calibration.fit_temperature", fit)
    monkeypatch.setattr("clipcls.calibration._COUNTED", 20 * 12)
    images = some_images(labels=12)
    calibrated(Fixed(images), images, FakeEncoder().info)
    assert len(seen[0]) == 20 and len(set(seen[0].tolist())) > 5


class Fixed(Head):
    """Scores by axes, one a label."""

    digest = "fixed"

    def __init__(self, images: LabelledImages) -> None:
        super().__init__(None, images.labels)  # type: ignore[arg-type]

    def scores(self, images: np.ndarray) -> Scores:
        cosines = np.random.default_rng(len(images)).uniform(-1, 1, (len(images), len(self.labels)))
        every = zeroshot.probabilities(cosines, 20 / self.temperature, None, "softmax")
        return Scores(cosines, every, cosines)


def test_a_sigmoid_model_that_is_always_right_may_still_be_far_too_unsure() -> None:
    images = some_images(noise=0.01)

    class Unsure(Fixed):
        def scores(self, images: np.ndarray) -> Scores:
            cosines = images[:, :4].astype(np.float64)
            every = zeroshot.probabilities(cosines, 10 / self.temperature, -12 / self.temperature, "sigmoid")
            return Scores(cosines, every, cosines)

    info = replace(FakeEncoder(activation="sigmoid").info, logit_scale=10.0, logit_bias=-12.0)
    found = calibrated(Unsure(images), images, info)  # type: ignore[arg-type]
    assert found.temperature > 2 and found.ece_after < found.ece_before


def test_the_probe_is_finished_also_where_embeddings_are_much_alike() -> None:
    dice = np.random.default_rng(0)
    truth = np.repeat(np.arange(60), 6)
    middle = np.eye(48)[0] * 8
    centres = dice.normal(size=(60, 48))
    vectors = middle + centres[truth] * 0.35 + dice.normal(size=(360, 48)) * 0.2
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert (vectors @ vectors.T).mean() > 0.85
    weights, bias = learn(vectors, truth, 60, 0)
    assert ((vectors.astype(np.float64) @ weights.T + bias).argmax(axis=1) == truth).mean() > 0.99


def test_copies_are_in_the_same_half() -> None:
    dice = np.random.default_rng(4)
    vectors = dice.normal(size=(60, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = np.tile(np.arange(3), 20)
    names = tuple(Label(f"label {at}") for at in range(3))
    twice = LabelledImages(
        names, tuple(f"{at}.jpg" for at in range(120)), np.concatenate([vectors] * 2), np.concatenate([truth] * 2)
    )
    one, other = twice.halves(0)
    assert len(one) == len(other) == 60 and {at % 60 for at in one.tolist()}.isdisjoint(
        {at % 60 for at in other.tolist()}
    )
    assert curve(twice, twice.truth == 0, shots=(), draws=1).points[-1].top1 < 0.6  # noise cannot be learned


def test_labels_with_one_image_do_not_spoil_the_probe() -> None:
    images = some_images(noise=0.3)
    kept = np.concatenate([np.arange(91), np.arange(100, 101)])  # of the last label one image
    few = LabelledImages(images.labels, images.paths[:92], images.vectors[kept], images.truth[kept])
    _, bias = learn(few.vectors, few.truth, 4, 0)
    assert np.isfinite(bias).all()
    found = curve(few, np.ones(92, bool), shots=(1, 15), draws=1)
    assert found.points[-1].top1 > 0.85 and found.held_out <= 47
    with pytest.raises(UsageError, match="two labels or more with two different images each"):
        curve(
            LabelledImages(images.labels, ("a", "b"), images.vectors[[0, 50]], images.truth[[0, 50]]), np.ones(2, bool)
        )


def head_file(**parts: object) -> Path:
    made: dict[str, object] = {
        "weights": np.ones((2, 16), np.float32),
        "bias": np.zeros(2, np.float32),
        "labels": np.array(["a", "b"]),
        "fingerprint": np.array("oc1-fake"),
        "model": np.array("starter"),
    }
    with Path("head.npz").open("wb") as file:
        np.savez(file, **made | parts)  # type: ignore[arg-type]
    return Path("head.npz")


@pytest.mark.parametrize(
    "parts",
    [
        {"weights": np.ones((2, 15), np.float32)},
        {"weights": np.ones((2, 16), np.complex64)},
        {"weights": np.full((2, 16), "x")},
        {"weights": np.full((2, 16), 1e300)},
        {"weights": np.full((2, 16), np.nan)},
        {"bias": np.zeros((2, 1), np.float32)},
        {"bias": np.full(2, np.inf)},
        {"bias": np.full(2, -np.inf)},
        {"labels": np.array("a")},
        {"labels": np.array([["a"], ["b"]])},
        {"labels": np.array(["a", "a"])},
        {"labels": np.array(["a", ""])},
        {"labels": np.array([1, 2])},
        {"fingerprint": np.array(["oc1-fake"])},
    ],
)
def test_a_damaged_head_is_refused_before_anything_is_written(
    here: Path, fake: Install, clipcls: Terminal, parts: dict[str, object]
) -> None:
    fake()
    picture(here / "a.png")
    assert clipcls("classify", "a.png", "--head", head_file(**parts), code=2) == ""
    assert "head.npz: a damaged head: make it anew" in clipcls.err
    assert "a.png,ok," in clipcls("classify", "a.png", "--head", head_file())


@pytest.mark.parametrize(
    "line",
    [
        "temperature = 1e-320",
        "temperature = inf",
        "temperature = nan",
        "temperature = true",
        "labels = [[1]]",
        "model = 1\nx = 2",
    ],
)
def test_a_calibration_that_makes_no_sense(fake: Install, folder: Path, clipcls: Terminal, line: str) -> None:
    fake()
    clipcls("eval", folder, "--calibrate", "-o", "c.toml")
    text = Path("c.toml").read_text("utf-8")
    key = line.partition(" ")[0]
    assert key == "labels" or re.search(rf"^{key} = ", text, re.MULTILINE)
    ends = re.sub(rf"^{key} = (\[[^]]*\]|.*)$", line, text, flags=re.MULTILINE)
    Path("c.toml").write_text(ends, "utf-8")
    clipcls("classify", folder, "--labels", "red,green,blue", "--calibration", "c.toml", code=2)
    assert "c.toml: not a calibration" in clipcls.err


def test_options_that_contradict_each_other(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    clipcls("eval", folder, "--save-probe", "x.html", "--report", "x.html", code=2)
    assert "x.html cannot be two things at once" in clipcls.err
    clipcls("eval", folder, "--seed", "-1", code=2)
    clipcls("classify", folder, "--head", head_file(), "--strict-language", code=2)
    assert "--head brings its own labels" in clipcls.err


def test_figures_are_told_even_where_what_follows_fails(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    shown = clipcls("eval", folder, "--calibrate", "-o", "/proc/nowhere/c.toml", code=7)
    assert "top-1,94.4%," in shown and "cannot be written" in clipcls.err


def test_a_folder_called_like_stdin(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    for name, colour in {"-": (220, 20, 20), "blue": (20, 20, 220)}.items():
        picture(here / name / "a.png", colour)
    assert json.loads(clipcls("eval", ".", "--json"))["evaluation"]["images"] == 2


def test_a_table_of_nothing(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    Path("truth.csv").write_text("path,label\n")
    clipcls("eval", folder, "--truth", "truth.csv", code=2)
    assert "truth.csv: no images in it" in clipcls.err
    Path("truth.csv").write_text("path,label\nred/1.png,red\n./red/1.png,blue\n")
    clipcls("eval", folder, "--truth", "truth.csv", code=2)
    assert "comes a second time" in clipcls.err
