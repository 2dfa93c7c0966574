"""The Python API as the README describes it, with a fake model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeDoor, picture

import clipcls
from clipcls import Classifier, Failure, ImageSource, Label, Prediction
from clipcls.errors import InputError, ModelError, StoreError, UsageError

Install = Callable[..., FakeDoor]


@pytest.fixture
def imgs(here: Path) -> Path:
    picture(here / "imgs" / "a.png", (255, 0, 0))
    picture(here / "imgs" / "b.png", (0, 0, 255))
    (here / "imgs" / "c.jpg").touch()
    return Path("imgs")


def test_every_public_name_is_there_and_loaded_late() -> None:
    for name in clipcls.__all__:
        assert getattr(clipcls, name) is not None
    assert sorted(clipcls.__all__) == dir(clipcls)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        clipcls.nothing  # noqa: B018
    code = "import sys, clipcls; assert not {'numpy', 'torch', 'clipcls.classifier'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_labels_and_images_in_predictions_out(fake: Install, imgs: Path) -> None:
    fake()
    with Classifier.load("fake/one", cache="store") as clf:
        head = clf.zero_shot(["red", "green", "blue"], prompts="plain")
        first, second, third = head.classify(imgs, top_k=2, all_scores=True)
    assert isinstance(first, Prediction) and first.ok and first.error is None
    assert (first.path, first.top.label, len(first.ranked)) == ("imgs/a.png", "red", 2)
    assert first.all_scores is not None and [score.label for score in first.all_scores] == ["red", "green", "blue"]
    assert first.ranked[0] is first.all_scores[0] and first.top.cosine >= first.ranked[1].cosine
    assert isinstance(second, Prediction) and second.top.label == "blue"
    assert isinstance(third, Failure) and not third.ok and third.error == "the file is empty"
    assert head.weights.shape == (3, 16) and head.weights.dtype == np.float32
    assert (Path("store") / "embeddings.sqlite3").exists()


@pytest.mark.parametrize("given", ["imgs/a.png", Path("imgs/a.png"), ["imgs/a.png"], ("imgs/a.png",)])
def test_paths_come_in_many_shapes(fake: Install, imgs: Path, given: object) -> None:
    fake()
    head = Classifier.load("fake/one", cache=False).zero_shot(["red", "blue"])
    assert [p.path for p in head.classify(given)] == ["imgs/a.png"]  # type: ignore[arg-type]


def test_image_references_are_read_as_they_come(fake: Install, imgs: Path) -> None:
    fake()
    head = Classifier.load("fake/one", cache=False).zero_shot(["red", "blue"])
    assert len(list(head.classify(ImageSource(["imgs"], include=["*.png"])))) == 2
    assert list(head.classify([])) == []


def test_labels_with_ids(fake: Install, imgs: Path) -> None:
    fake()
    head = Classifier.load("fake/one", cache=False).zero_shot([Label("red", "one"), Label("red", "two"), "blue"])
    (found,) = head.classify("imgs/a.png", top_k=3)
    assert [score.label for score in found.ranked] == ["red [one]", "red [two]", "blue"]  # type: ignore[union-attr]
    assert found.ranked[0].probability == found.ranked[1].probability  # type: ignore[union-attr]


def test_one_string_of_labels_is_split(fake: Install) -> None:
    fake()
    head = Classifier.load("fake/one", cache=False).zero_shot("猫，狗、polar bear")
    assert [label.name for label in head.labels] == ["猫", "狗", "polar bear"]
    with pytest.raises(UsageError, match="would both be called"):
        Classifier.load("fake/one", cache=False).zero_shot([Label("a", "1"), "a [1]"])


def test_a_closed_classifier_says_so(fake: Install) -> None:
    fake()
    with Classifier.load("fake/one", cache=False) as clf:
        pass
    with pytest.raises(UsageError, match="is closed"):
        clf.embed_texts("red")


def test_embeddings(fake: Install, imgs: Path) -> None:
    fake()
    with Classifier.load("fake/one", cache=False) as clf:
        images = clf.embed_images(["imgs/a.png", "imgs/b.png"])
        texts = clf.embed_texts(["red", "blue"])
        assert images.shape == texts.shape == (2, 16) and images.dtype == texts.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
        assert clf.embed_texts("red").shape == (1, 16)
        assert clf.embed_images([]).shape == clf.embed_texts([]).shape == (0, 16)
        with pytest.raises(InputError, match=r"imgs/c\.jpg: the file is empty"):
            clf.embed_images("imgs")


def test_sigmoid_models_score_each_label_alone(fake: Install, imgs: Path) -> None:
    fake(activation="sigmoid")
    clf = Classifier.load("fake/one", cache=False)
    (both,) = clf.zero_shot(["red", "blue"], "plain").classify("imgs/a.png")
    (alone,) = clf.zero_shot(["red"], "plain").classify("imgs/a.png")
    assert both.top == alone.top and alone.top.probability < 1  # type: ignore[union-attr]
    logit = 20.0 * alone.top.cosine - 5.0  # type: ignore[union-attr]
    assert alone.top.probability == pytest.approx(1 / (1 + np.exp(-logit)))  # type: ignore[union-attr]


def test_mistakes_have_their_own_errors(fake: Install, imgs: Path) -> None:
    fake()
    clf = Classifier.load("fake/one", cache=False)
    with pytest.raises(UsageError, match="top-k"):
        list(clf.zero_shot(["a"]).classify(imgs, top_k=0))
    with pytest.raises(UsageError, match="no labels"):
        clf.zero_shot([])
    with pytest.raises(InputError):
        list(clf.zero_shot(["a"]).classify("nowhere"))
    with pytest.raises(UsageError, match="unknown device"):
        Classifier.load("fake/one", device="tpu", cache=False)
    with pytest.raises(ModelError, match="unknown model"):
        Classifier.load("nothing", cache=False)
    Path("file").touch()
    with pytest.raises(StoreError):
        Classifier.load("fake/one", cache="file/cache")
