"""Answers beyond one label: synonyms, background, several labels, groups, and images that nothing fits well enough."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Terminal
from fakes import DIM, FakeDoor, FakeEncoder, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcls import Classifier, Failure, ImageRef, Label, Prediction, ZeroShotClassifier
from clipcls.answer import Answer, Scores
from clipcls.cli.classify import _Layout, _Rule, _run_info
from clipcls.errors import UsageError
from clipcls.heads import NEUTRAL
from clipcls.pipeline import Embedded
from clipcls.records import GroupScore, Score
from clipcls.sinks.runinfo import differences

Install = Callable[..., FakeDoor]
RED, BLUE, GREY, YELLOW = (255, 0, 0), (0, 0, 255), (128, 128, 128), (250, 240, 0)


class Seen:
    """In an embedder's place: images are the vectors that it was given."""

    def __init__(self, vectors: np.ndarray[Any, Any] | None = None, encoder: FakeEncoder | None = None) -> None:
        self.encoder = encoder or FakeEncoder()
        self.info = self.encoder.info
        self.vectors = np.empty((0, DIM), np.float32) if vectors is None else vectors

    def texts(self, prompts: list[str]) -> tuple[np.ndarray[Any, Any], object]:
        return self.encoder.encode_texts(prompts), self.encoder.tokenize(prompts)

    def images(self, refs: Iterable[ImageRef]) -> Iterator[list[Embedded | Failure]]:
        yield [Embedded(ref.id, self.vectors[int(ref.id)], False) for ref in refs]

    def head(self, labels: Any, **options: Any) -> ZeroShotClassifier:
        return Classifier(self).zero_shot(labels, options.pop("prompts", "plain"), **options)  # type: ignore[arg-type]

    def answers(self, head: ZeroShotClassifier, **options: Any) -> list[Prediction]:
        refs = [ImageRef(str(at), "/", None, io.BytesIO) for at in range(len(self.vectors))]
        found = list(head.classify(refs, **options))
        assert all(isinstance(record, Prediction) for record in found)
        return found  # type: ignore[return-value]


def colour(*amounts: float) -> np.ndarray[Any, Any]:
    """An image that is so much red, green and blue."""
    vector = np.zeros((1, DIM), np.float32)
    vector[0, : len(amounts)] = amounts
    return vector / np.linalg.norm(vector)


def a_few_images(seed: int, count: int = 4) -> np.ndarray[Any, Any]:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)) * 0.2
    rows[:, :3] += np.random.default_rng(seed + 1).uniform(size=(count, 3))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def one(labels: Any, image: np.ndarray[Any, Any], *, activation: str = "softmax", **options: Any) -> Prediction:
    """What is answered for one image."""
    seen = Seen(image, FakeEncoder(activation=activation))
    of_head = {key: options.pop(key) for key in ("synonyms", "background", "multi_label", "prompts") if key in options}
    (found,) = seen.answers(seen.head(labels, **of_head), **options)
    return found


# Properties

ACTIVATIONS = st.sampled_from(["softmax", "sigmoid"])
SEEDS = st.integers(0, 10**6)
NAMES = [f"{word} {thing}" for word in ("red", "green", "blue", "odd") for thing in ("cat", "dog", "cup", "tree")]


@st.composite
def label_lists(draw: st.DrawFn, most: int = 6) -> list[Label]:
    """Labels of one to three names, some of them in a group."""
    names = draw(st.permutations(NAMES))
    return [
        Label(
            names[2 * at],
            synonyms=(names[2 * at + 1], f"{names[2 * at]} 2")[: draw(st.integers(0, 2))],
            group=draw(st.sampled_from(["", "animals", "things"])),
        )
        for at in range(draw(st.integers(2, most)))
    ]


@settings(deadline=None, max_examples=150)
@given(
    label_lists(),
    st.lists(st.sampled_from(["sky", "red sky|sea", "green lawn", "wall"]), max_size=2, unique=True),
    ACTIVATIONS,
    st.sampled_from(["mean", "max"]),
    st.booleans(),
    SEEDS,
    st.data(),
)
def test_permuting_labels_permutes_scores_only(
    labels: list[Label],
    background: list[str],
    activation: str,
    synonyms: str,
    multi_label: bool,
    seed: int,
    data: st.DataObject,
) -> None:
    moved = data.draw(st.permutations(labels))
    background = [] if multi_label else background
    rule = {"threshold": data.draw(st.sampled_from([None, 0.3, 0.7])), "all_scores": True, "top_k": 3}
    rule |= {"groups": any(label.group for label in labels)}
    rule |= {} if multi_label else {"margin": data.draw(st.sampled_from([0.0, 0.2]))}
    seen = Seen(a_few_images(seed), FakeEncoder(activation=activation))
    plain, permuted = (
        seen.answers(seen.head(order, synonyms=synonyms, background=behind, multi_label=multi_label), **rule)
        for order, behind in ((labels, background), (moved, background[::-1]))
    )
    for a, b in zip(plain, permuted, strict=True):
        assert a.labels == b.labels and [s.label for s in a.ranked] == [s.label for s in b.ranked]
        assert [s.label for s in b.all_scores or ()] == [label.column for label in moved]
        found = {s.label: (s.probability, s.cosine) for s in b.all_scores or ()}
        for score in a.all_scores or ():
            assert found[score.label] == pytest.approx((score.probability, score.cosine), abs=1e-12)
        if a.group and b.group:
            assert a.group.name == b.group.name and a.group.probability == pytest.approx(b.group.probability)


@settings(deadline=None)
@given(label_lists(), ACTIVATIONS, st.booleans(), st.lists(st.floats(0, 1), min_size=4, max_size=4), SEEDS)
def test_asking_for_more_never_makes_an_answer_sure(
    labels: list[Label], activation: str, multi_label: bool, numbers: list[float], seed: int
) -> None:
    seen = Seen(a_few_images(seed), FakeEncoder(activation=activation))
    head = seen.head(labels, multi_label=multi_label, background=[] if multi_label else ["sky", "wall"])
    (low, high), (small, large) = sorted(numbers[:2]), sorted(numbers[2:])
    if multi_label:
        small = large = 0.0
    easy = seen.answers(head, threshold=low, margin=small)
    for harder in ({"threshold": high, "margin": small}, {"threshold": low, "margin": large}):
        for before, after in zip(easy, seen.answers(head, **harder), strict=True):
            assert set(after.labels) <= set(before.labels)
            assert after.ranked == before.ranked


@settings(deadline=None)
@given(label_lists(), st.sampled_from([(), ("sky", "red wall")]), ACTIVATIONS, SEEDS)
def test_the_best_group_has_the_largest_share(
    labels: list[Label], background: tuple[str, ...], activation: str, seed: int
) -> None:
    labels = [*labels, Label("a tool", group="things")]
    seen = Seen(a_few_images(seed), FakeEncoder(activation=activation))
    head = seen.head(labels, background=background)
    for found in seen.answers(head, groups=True, all_scores=True):
        shares: dict[str, list[float]] = defaultdict(list)
        for label, score in zip(labels, found.all_scores or (), strict=True):
            shares[label.group or label.column].append(score.probability)
        combined = {name: (sum if activation == "softmax" else max)(parts) for name, parts in shares.items()}
        assert found.group is not None and found.group.probability == pytest.approx(max(combined.values()))
        assert combined[found.group.name] == pytest.approx(found.group.probability)
        if activation == "softmax":
            total = sum(combined.values())
            assert total < 1 if background else total == pytest.approx(1)


@settings(deadline=None)
@given(label_lists(), st.sampled_from(["mean", "max"]), SEEDS)
def test_one_name_a_label_is_the_same_by_mean_and_by_max(labels: list[Label], synonyms: str, seed: int) -> None:
    seen = Seen(a_few_images(seed))
    plain = [label.name for label in labels]
    (mean, max_) = (seen.answers(seen.head(plain, synonyms=way), all_scores=True) for way in ("mean", "max"))
    assert mean == max_


# Synonyms


def test_mean_of_synonyms_is_the_normalised_mean_of_their_class_weights() -> None:
    seen = Seen()
    weights = seen.head(["red|crimson", "blue"], prompts=["a {}", "the {}"]).weights
    alone = seen.head(["red", "crimson", "blue"], prompts=["a {}", "the {}"]).weights
    mean = alone[:2].mean(axis=0)
    np.testing.assert_allclose(weights, [mean / np.linalg.norm(mean), alone[2]], atol=1e-6)


def test_max_of_synonyms_is_the_best_names_score() -> None:
    image = colour(1, 0.2, 0)
    found = one(["red|sky|green", "blue"], image, synonyms="max", all_scores=True)
    alone = one(["red", "sky", "green", "blue"], image, all_scores=True)
    assert found.all_scores is not None and alone.all_scores is not None
    assert [score.cosine for score in found.all_scores] == pytest.approx(
        [max(score.cosine for score in alone.all_scores[:3]), alone.all_scores[3].cosine]
    )
    assert sum(score.probability for score in found.all_scores) == pytest.approx(1)
    assert found.top.label == "red" and found.top.cosine > one(["red|sky|green", "blue"], image).top.cosine


def test_each_synonym_is_written_into_the_prompts_of_its_own_script() -> None:
    seen = Seen()
    head = seen.head(["大象|elephant"], prompts=None)
    assert "这是一张有关大象的照片" in seen.encoder.texts and "a photo of a elephant" in seen.encoder.texts
    assert [wording.name for wording in head.wordings] == ["大象", "elephant"] and len(head.weights) == 1


def test_an_unknown_way_with_synonyms_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown way with synonyms 'sum': use mean or max"):
        Seen().head(["a"], synonyms="sum")


def test_the_shown_name_is_not_the_prompted_one() -> None:
    seen = Seen(colour(1))
    head = seen.head([Label("red", display="rouge"), Label("blue", id="b")])
    (found,) = seen.answers(head, top_k=2)
    assert [score.label for score in found.ranked] == ["rouge", "blue [b]"] and seen.encoder.texts == ["red", "blue"]


# Background


def test_background_competes_and_is_never_the_answer() -> None:
    alone, behind = (one(["red", "green"], colour(0.2, 0.1, 1), background=b, all_scores=True) for b in ((), "blue"))
    assert alone.labels == ("red",) and alone.top.probability > 0.5
    assert behind.labels == () and behind.uncertain and behind.top.label == "red" and behind.top.probability < 0.01
    assert behind.top.cosine == pytest.approx(alone.top.cosine)
    assert [score.label for score in behind.all_scores or ()] == ["red", "green"]
    assert one(["red", "green"], colour(1), background=["blue", "sky"]).labels == ("red",)


def test_background_wins_over_sigmoid_models_labels_too() -> None:
    assert one(["red"], colour(0.5, 0, 1), background="blue", activation="sigmoid").uncertain
    assert one(["red"], colour(1, 0, 0.5), background="blue", activation="sigmoid").labels == ("red",)


@pytest.mark.parametrize("synonyms", ["mean", "max"])
def test_background_may_have_synonyms_and_comes_last(synonyms: str) -> None:
    seen = Seen(colour(0, 0.1, 1))
    head = seen.head(["red|crimson", "green"], background="sea|blue sea,wall", synonyms=synonyms)
    assert [label.name for label in head.labels] == ["red", "green"]
    assert [label.names for label in head.background] == [("sea", "blue sea"), ("wall",)]
    assert seen.answers(head)[0].uncertain


def test_a_label_as_good_as_the_background_is_the_answer() -> None:
    background = [Label("x", templates=("red",))]
    for labels in (["red", "blue"], ["blue", "red"]):
        with_noise = one(labels, colour(1), background=background)
        assert with_noise.labels == ("red",) and with_noise.top.probability == pytest.approx(0.5, abs=1e-6)


def test_rounding_does_not_decide_between_a_label_and_the_background() -> None:
    rule = {"multi_label": False, "threshold": None, "margin": 0.0, "groups": False, "top_k": 1, "all_scores": False}
    answer = Answer([Label("x")], "softmax", **rule)  # type: ignore[arg-type]
    for lead, labels in ((1e-13, ("x",)), (1e-6, ())):
        cosines = np.array([[0.5, 0.5 + lead]])
        (found,) = answer.all([Embedded("a", colour(1)[0], False)], Scores(cosines, np.full((1, 2), 0.5), cosines))
        assert found.labels == labels


@pytest.mark.parametrize(
    ("labels", "background", "named"),
    [
        (["red"], ["red"], "'red'"),
        (["red|crimson"], ["blue|crimson"], "'crimson'"),
        (["caf\u00e9"], ["cafe\u0301"], "both a label and background"),
        ([Label("red", display="warm")], ["warm"], "'warm'"),
        (["red"], [Label("blue", display="red")], "'red'"),
    ],
)
def test_a_name_is_a_label_or_background(labels: list[Any], background: list[Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Seen().head(labels, background=background)


def test_with_background_one_label_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    one(["red"], colour(1), background="blue")
    one(["red"], colour(1), multi_label=True)
    assert not caplog.messages
    one(["red"], colour(1))
    assert "with one label the probability is always 1" in caplog.text


# Not sure enough


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ({}, ("red",)),
        ({"threshold": 0.0}, ("red",)),
        ({"threshold": 0.4}, ("red",)),
        ({"threshold": 0.99}, ()),
        ({"margin": 0.05}, ("red",)),
        ({"margin": 0.9}, ()),
        ({"threshold": 0.4, "margin": 0.9}, ()),
    ],
)
def test_threshold_and_margin(rule: dict[str, float], labels: tuple[str, ...]) -> None:
    found = one(["red", "green"], colour(1, 0.95), **rule)
    assert 0.5 < found.top.probability < 0.9
    assert (found.labels, found.uncertain, found.top.label) == (labels, not labels, "red")


def test_margin_counts_from_the_best_of_the_background() -> None:
    image = colour(1, 0, 0.95)
    assert one(["red", "green"], image, margin=0.5).labels == ("red",)
    assert one(["red", "green"], image, margin=0.5, background="blue").uncertain
    assert one(["red", "green"], image, background="blue").labels == ("red",)


def test_a_threshold_of_one_is_reached_by_a_lone_label() -> None:
    assert one(["red"], colour(0, 1), threshold=1.0, margin=1.0).labels == ("red",)


@pytest.mark.parametrize("rule", [{"threshold": -0.1}, {"threshold": 50}, {"margin": 1.5}, {"margin": float("nan")}])
def test_numbers_that_are_no_probabilities_are_refused(rule: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(rule))} must be a probability, from 0 to 1"):
        one(["red", "blue"], colour(1), **rule)


def test_without_a_rule_a_prediction_answers_its_best_label() -> None:
    plain = Prediction("a", (Score("x", 0.1, 0.1),))
    assert plain.labels == ("x",) and not plain.uncertain
    assert Prediction("a", plain.ranked, sure=()).uncertain
    assert Prediction("a", plain.ranked, sure=("x", "y")).labels == ("x", "y")


# Several labels


def test_a_sigmoid_model_answers_every_label_over_the_threshold() -> None:
    labels = ["red", "green", "blue"]
    both = one(labels, colour(0.8, 1), activation="sigmoid", multi_label=True, all_scores=True)
    assert both.labels == ("green", "red") and both.top.label == "green"
    for score in both.all_scores or ():
        assert score.probability == pytest.approx(1 / (1 + np.exp(5 - 20 * score.cosine)))
    assert one(labels, colour(1, 1, 1), activation="sigmoid", multi_label=True, threshold=0.999999).uncertain
    assert len(one(labels, colour(1), activation="sigmoid", multi_label=True, threshold=0.0).labels) == 3


@pytest.mark.parametrize(("names", "language"), [(["red", "green"], "en"), (["红", "绿"], "zh")])
def test_a_softmax_model_compares_each_label_with_a_prompt_that_names_nothing(names: list[str], language: str) -> None:
    seen = Seen(colour(1, 0.9))
    head = seen.head(names, multi_label=True, prompts=None)
    assert seen.encoder.texts[-2:] == [NEUTRAL[language]] * 2
    neutral = float(seen.vectors[0] @ seen.encoder.encode_texts([NEUTRAL[language]])[0])
    (found,) = seen.answers(head, all_scores=True)
    for score in found.all_scores or ():
        assert score.probability == pytest.approx(1 / (1 + np.exp(20 * (neutral - score.cosine))), abs=1e-6)
    assert found.labels == tuple(names)


def test_labels_of_two_languages_are_ranked_by_what_they_add_to_their_own_neutral_prompt() -> None:
    seen = Seen(a_few_images(7, 40))
    head = seen.head(["red cup", "红", "odd", "怪"], multi_label=True)
    for found in seen.answers(head, top_k=4):
        assert [s.probability for s in found.ranked] == sorted((s.probability for s in found.ranked), reverse=True)


def test_a_labels_own_score_does_not_depend_on_the_other_labels() -> None:
    image = colour(1, 0.4, 0.1)
    many = one(["red", "green", "blue"], image, multi_label=True, all_scores=True).all_scores
    assert many is not None and one(["red"], image, multi_label=True).top == many[0]


def test_the_threshold_is_higher_where_the_model_was_not_made_for_it() -> None:
    unsure = one(["odd", "red"], colour(0.12, 0.1, 1.0), multi_label=True, all_scores=True)
    assert unsure.uncertain and 0.5 < unsure.top.probability < 0.9
    assert one(["odd", "red"], colour(0.12, 0.1, 1.0), multi_label=True, threshold=0.5).labels == ("red",)


def test_where_labels_do_not_compete_background_and_margin_are_refused() -> None:
    with pytest.raises(UsageError, match="--background has nothing to do"):
        one(["red"], colour(1), multi_label=True, background="blue")
    with pytest.raises(UsageError, match="--margin has nothing to do"):
        one(["red"], colour(1), multi_label=True, margin=0.1)


# Groups

WARM_AND_COLD = [
    Label("red", group="warm"),
    Label("odd red", group="warm"),
    Label("blue", group="cold"),
    Label("green"),
]


def test_a_group_adds_up_its_labels() -> None:
    labels = [Label("green"), *WARM_AND_COLD[:2]]
    found = one(labels, colour(1, 1.02), groups=True, all_scores=True)
    assert found.top.label == "green" and found.group is not None and found.all_scores is not None
    assert found.group == GroupScore("warm", pytest.approx(sum(score.probability for score in found.all_scores[1:])))


def test_a_label_without_a_group_is_its_own() -> None:
    assert one(WARM_AND_COLD, colour(0, 1), groups=True).group == GroupScore("green", pytest.approx(1, abs=1e-4))
    assert one(WARM_AND_COLD, colour(0, 1)).group is None


@pytest.mark.parametrize("options", [{"activation": "sigmoid"}, {"multi_label": True}])
def test_a_group_is_as_good_as_its_best_label_where_labels_do_not_compete(options: dict[str, Any]) -> None:
    found = one(WARM_AND_COLD, colour(1, 0, 0.4), groups=True, **options)
    assert found.group == GroupScore("warm", found.top.probability)


@pytest.mark.parametrize("scale", [1e-4, 1e5])
def test_the_group_is_the_best_labels_also_where_probabilities_saturate(scale: float) -> None:
    encoder = FakeEncoder(activation="sigmoid")
    object.__setattr__(encoder.info, "logit_scale", scale)
    object.__setattr__(encoder.info, "logit_bias", -1000.0 if scale < 1 else 0.0)
    seen = Seen(colour(0.6, 0.1, 1), encoder)
    (found,) = seen.answers(seen.head(WARM_AND_COLD), groups=True)
    assert found.top.label == "blue" and found.group == GroupScore("cold", 0.0 if scale < 1 else 1.0)


def test_groups_are_for_labels_that_have_some() -> None:
    with pytest.raises(UsageError, match="no label has a group"):
        one(["red", "blue"], colour(1), groups=True)


# Labels that a model cannot tell apart


class Cleaning(FakeEncoder):
    """Reads no signs and no capitals, as SigLIP's canonicalisation does."""

    def _text(self, prompt: str) -> np.ndarray[Any, Any]:
        return super()._text(" ".join("".join(c for c in prompt.lower() if c.isalnum() or c == " ").split()))


def warnings_of(caplog: pytest.LogCaptureFixture, labels: Any, **options: Any) -> list[str]:
    caplog.clear()
    Seen(encoder=Cleaning()).head(labels, **options)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("synonyms", ["mean", "max"])
@pytest.mark.parametrize(
    ("labels", "background", "named"),
    [
        (["C++", "red", "c"], (), "'C++' and 'c'"),
        (["C++", "C#", "c", "C", "red"], (), "'C++' and 'C#' and 'c' and more"),
        (["a language|C++", "red|C#"], (), "'a language|C++' and 'red|C#'"),
        (["C++", "red"], ["c"], "'C++' and 'c'"),
        ([Label("red", "1"), Label("red", "2")], (), "'red [1]' and 'red [2]'"),
    ],
)
def test_labels_that_a_model_reads_alike_are_named(
    caplog: pytest.LogCaptureFixture, labels: list[Any], background: Any, named: str, synonyms: str
) -> None:
    (told,) = warnings_of(caplog, labels, background=background, synonyms=synonyms)
    assert told == f"fake/one reads {named} alike and cannot tell them apart: reword all but one"


def test_what_a_model_tells_apart_or_need_not_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert not warnings_of(caplog, ["c|C++", "red|RED", "green", "odd"])
    assert not warnings_of(caplog, [Label("red", "1", templates=("a red car",)), Label("red", "2")])


# The command line


@pytest.fixture
def imgs(here: Path) -> Path:
    for name, shade in {"a-red": RED, "b-yellow": YELLOW, "c-grey": GREY, "d-blue": BLUE}.items():
        picture(here / "imgs" / f"{name}.png", shade)
    return Path("imgs")


GROUPED = """
labels = [
  {name = "red", synonyms = ["crimson"], group = "=warm"},
  {name = "green", display = "=verde", group = "cold"},
  {name = "blue", group = "cold"},
]
"""


def json_rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_plain_run_is_what_it_was(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    (imgs / "z.png").touch()
    words = ("classify", imgs, "--labels", "red,绿,blue", "-p", "plain", "-k", "2")
    assert clipcls(*words, code=3) == (
        "path,status,label,probability,cosine,label_2,probability_2,cosine_2,error\n"
        "imgs/a-red.png,ok,red,1.000000,0.983931,绿,0.000000,0.072198,\n"
        "imgs/b-yellow.png,ok,绿,0.692990,0.728836,red,0.307010,0.688129,\n"
        "imgs/c-grey.png,ok,绿,0.730490,0.614744,blue,0.154374,0.537027,\n"
        "imgs/d-blue.png,ok,blue,1.000000,0.973719,绿,0.000000,0.019429,\n"
        "imgs/z.png,error,,,,,,,the file is empty\n"
    )
    assert " uncertain" not in clipcls.err
    first, *_, bad = json_rows(clipcls(*words, "-f", "jsonl", code=3))
    keys = ["path", "path_bytes", "status", "label", "probability", "cosine", "ranked", "error"]
    assert list(first) == list(bad) == keys and first["label"] == first["ranked"][0]["label"]


@pytest.mark.parametrize(("flags", "called"), [([], ""), (["--unknown-label", "其他"], "其他")])
def test_uncertain_images_are_rows_and_no_failures(
    fake: Install, imgs: Path, clipcls: Terminal, flags: list[str], called: str
) -> None:
    fake()
    words = ("classify", imgs, "--labels", "red,green,blue", "-p", "plain", "--threshold", "0.8", *flags)
    found = clipcls.rows(*words)
    assert [(row["status"], row["label"]) for row in found] == [
        ("ok", "red"), ("uncertain", called), ("uncertain", called), ("ok", "blue"),
    ]  # fmt: skip
    assert all(float(row["probability"]) < 0.8 and row["cosine"] and not row["error"] for row in found[1:3])
    assert "4 images, 0 failed, 2 uncertain, " in clipcls.err
    told = json_rows(clipcls(*words, "-f", "jsonl"))
    assert [row["label"] for row in told] == ["red", called or None, called or None, "blue"]
    assert [row["status"] for row in told] == [row["status"] for row in found]
    assert told[1]["ranked"][0]["label"] in ("red", "green") and "labels" not in told[1] and "group" not in told[1]


def test_margin_and_background(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    words = ("classify", imgs, "--labels", "red,green", "-p", "plain")
    assert [row["status"] for row in clipcls.rows(*words, "--margin", "0.6")] == ["ok", *["uncertain"] * 3]
    rows = clipcls.rows(*words, "--background", "blue，wall", "--background", "sea", "--all-scores")
    assert [row["status"] for row in rows] == ["ok", "ok", rows[2]["status"], "uncertain"]
    assert (rows[-1]["label"], list(rows[0])[3]) == ("", "best") and rows[-1]["best"] in ("red", "green")
    assert list(rows[0])[6:] == ["probability:red", "probability:green", "cosine:red", "cosine:green", "error"]


def test_several_labels_in_one_row(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake(activation="sigmoid")
    words = ("classify", imgs, "--labels", "red,green,blue", "-p", "plain", "--multi-label")
    rows = clipcls.rows(*words)
    assert [row["label"] for row in rows][0::3] == ["red", "blue"] and rows[1]["label"] == "red|green"
    told = json_rows(clipcls(*words, "-f", "jsonl", "--threshold", "0.9999999"))
    assert all((row["labels"], row["label"], row["status"]) == ([], None, "uncertain") for row in told)
    (imgs / "a-red.png").write_bytes(b"")
    first, second, *_ = json_rows(clipcls(*words, "-f", "jsonl", code=3))
    assert first["labels"] == [] and second["labels"] == ["red", "green"] and second["label"] == "red|green"


def test_groups_in_every_format(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    Path("labels.toml").write_text(GROUPED)
    words = ("classify", imgs, "--labels-file", "labels.toml", "-p", "plain", "--groups")
    rows = clipcls.rows(*words)
    assert list(rows[0])[5:] == ["group", "group_probability", "error"]
    assert [(row["group"], row["label"]) for row in rows][0::3] == [("=warm", "red"), ("cold", "blue")]
    told = json_rows(clipcls(*words, "-f", "jsonl"))
    assert told[3]["group"] == {"name": "cold", "probability": pytest.approx(float(rows[3]["group_probability"]))}
    assert "% cold" in clipcls(*words, "-f", "table")


def test_excel_runs_neither_groups_nor_unknown_labels(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    Path("labels.toml").write_text(GROUPED)
    words = ("classify", imgs, "--labels-file", "labels.toml", "-p", "plain", "--groups", "--excel")
    clipcls(*words, "--threshold", "0.9", "--unknown-label", "=?", "-o", "out.csv")
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text("utf-8-sig"), newline="")))
    assert {row["group"] for row in rows} == {"'=warm", "cold"} and "'=?" in {row["label"] for row in rows}
    assert not any(cell.startswith("=") for row in rows for cell in [*row, *row.values()])


FLAGS = {
    "threshold": ["--threshold", "0.7"],
    "margin": ["--margin", "0.1"],
    "unknown label": ["--unknown-label", "other", "--threshold", "0.01"],
    "synonyms": ["--synonyms", "max"],
    "background": ["--background", "sky"],
    "multi label": ["--multi-label"],
    "groups": ["--groups"],
}


@pytest.mark.parametrize("named", FLAGS)
def test_another_rule_is_another_run(fake: Install, imgs: Path, clipcls: Terminal, named: str) -> None:
    fake()
    Path("labels.toml").write_text(GROUPED)
    words = ("classify", imgs, "--labels-file", "labels.toml", "-p", "plain", "-o", "out.csv")
    clipcls(*words)
    whole = Path("out.csv").read_bytes()
    clipcls(*words, *FLAGS[named], "--resume", code=7)
    assert f"{named}: " in clipcls.err and " then, " in clipcls.err and "('" not in clipcls.err
    clipcls(*words, "--resume")
    assert "nothing to do: the file is complete" in clipcls.err
    clipcls(*words, *FLAGS[named], "--overwrite")
    clipcls(*words, "--resume", code=7)
    assert f"{named}: " in clipcls.err
    clipcls(*words, *FLAGS[named], "--resume")
    clipcls(*words, "--overwrite")
    assert Path("out.csv").read_bytes() == whole


def test_another_synonym_is_another_run(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    words = ("classify", imgs, "-p", "plain", "-o", "out.csv")
    clipcls(*words, "--labels", "red|crimson,blue", "--background", "sky|sea")
    clipcls(*words, "--labels", "red|scarlet,blue", "--background", "sky|sea", "--resume", code=7)
    assert "prompts of red|crimson and 1 more: {label} then, none now" in clipcls.err
    clipcls(*words, "--labels", "red|crimson,blue", "--background", "sky", "--resume", code=7)
    assert "prompts of sky|sea: {label} then, none now" in clipcls.err


def test_background_of_another_name_is_another_run(here: Path) -> None:
    layout, rule = _Layout("csv", 1, False, False, ""), _Rule(None, 0.0, False)
    heads = [Seen().head(["red"], background=[Label(name, display="rest")]) for name in ("sky", "sea")]
    then, now = (_run_info(head, Seen().info, layout, rule, [], {}, with_versions=False) for head in heads)
    assert differences(then, now) == ["background: sky then, sea now"]


def test_the_run_file_tells_the_rule(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    Path("labels.toml").write_text(GROUPED)
    words = ["--labels-file", "labels.toml", "-l", "odd", "-p", "plain", "--groups", "--synonyms", "max"]
    words += ["--threshold", "0.6", "--margin", "0.1", "--unknown-label", "?", "--background", "sky|sea,wall"]
    clipcls("classify", imgs, *words, "-o", "out.jsonl")
    told = json.loads(Path("out.jsonl.run.json").read_text("utf-8"))
    expected = {"synonyms": "max", "threshold": 0.6, "margin": 0.1, "unknown_label": "?", "multi_label": False}
    expected |= {"background": ["sky", "wall"], "groups": ["odd", "=warm", "cold", "cold"]}
    assert {key: told[key] for key in expected} == expected
    assert told["prompts"] == [
        {"labels": ["odd", "red", "red|crimson", "=verde", "blue", "sky", "sky|sea", "wall"], "templates": ["{label}"]}
    ]


def test_a_run_file_from_before_is_one_line(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    words = ("classify", imgs, "--labels", "red,blue", "-q", "-o", "out.csv")
    clipcls(*words)
    file = Path("out.csv.run.json")
    told = json.loads(file.read_text("utf-8"))
    for name in ("synonyms", "background", "threshold", "margin", "unknown_label", "multi_label", "groups"):
        del told[name]
    file.write_text(json.dumps(told), "utf-8")
    clipcls(*words, "--resume", code=7)
    (line,) = clipcls.err.splitlines()
    assert line == "error: out.csv.run.json is damaged or from another version of clipcls; --overwrite starts over"


def test_a_cut_off_run_of_uncertain_rows_is_resumed(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    Path("labels.toml").write_text(GROUPED)
    words = ("classify", imgs, "--labels-file", "labels.toml", "-p", "plain", "--groups", "--threshold", "0.9")
    words += ("--unknown-label", 'so, "so"', "-o", "out.csv")
    clipcls(*words)
    whole = Path("out.csv").read_text("utf-8")
    assert whole.count(',uncertain,"so, ""so""",') == 1
    Path("out.csv").rename("out.csv.partial")
    Path("out.csv.partial").write_text("".join(whole.splitlines(keepends=True)[:3]), "utf-8")
    clipcls(*words, "--resume")
    assert Path("out.csv").read_text("utf-8") == whole and "2 done before; 2 images" in clipcls.err
    assert json.loads(Path("out.csv.run.json").read_text("utf-8"))["failed"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--synonyms", "median"], "unknown way with synonyms 'median': use mean or max"),
        (["--multi-label", "--background", "sky"], "--background has nothing to do"),
        (["--multi-label", "--margin", "0.1"], "--margin has nothing to do"),
        (["--groups"], "no label has a group"),
        (["--background", "blue"], "'blue' is both a label and background"),
        (["--threshold", "nan"], "threshold must be a probability"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(
    fake: Install, imgs: Path, clipcls: Terminal, words: list[str], message: str
) -> None:
    fake()
    clipcls("classify", imgs, "--labels", "red,blue", "-o", "out.csv", *words, code=2)
    (line,) = (line for line in clipcls.err.splitlines() if "using the built-in" not in line)
    assert line.startswith("error: ") and message in line
    assert {path.name for path in Path().iterdir()} == {"imgs"}


@pytest.mark.parametrize("words", [["--threshold", "50"], ["--threshold", "-0.1"], ["--margin", "1.01"]])
def test_a_percentage_is_refused_before_the_model_loads(
    fake: Install, imgs: Path, clipcls: Terminal, words: list[str]
) -> None:
    door = fake()
    clipcls("classify", imgs, "--labels", "red,blue", *words, code=2)
    assert words[0] in clipcls.err and door.loads == 0


def test_labels_that_are_read_alike_are_reported_in_one_line(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake(Cleaning())
    clipcls("classify", imgs, "--labels", "C++,c,red", "--model", "fake/one")
    assert "warning: fake/one reads 'C++' and 'c' alike and cannot tell them apart" in clipcls.err


def test_a_blank_background_is_none(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    assert clipcls("classify", imgs, "-l", "red,blue", "--background", "") == clipcls(
        "classify", imgs, "-l", "red,blue"
    )


def test_an_unknown_label_without_anything_to_be_unsure_by(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    clipcls("classify", imgs, "-l", "red,blue", "--unknown-label", "other", code=2)
    assert "--unknown-label needs something to be unsure by" in clipcls.err


@pytest.mark.parametrize("flags", [["--groups"], ["--multi-label", "--margin", "0.1"]])
def test_what_cannot_be_answered_is_refused_before_anything_is_written(
    fake: Install, imgs: Path, clipcls: Terminal, flags: list[str]
) -> None:
    fake()
    assert clipcls("classify", imgs, "-l", "red,blue", *flags, code=2) == ""


def test_a_rule_that_makes_no_sense_is_an_error_at_once() -> None:
    with Classifier.load("starter", cache=False) as classifier, pytest.raises(UsageError, match="top-k must be 1"):
        classifier.zero_shot("cat,dog").classify(["a.jpg"], top_k=0)
