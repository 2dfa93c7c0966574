"""The starter's recipe: its parts on small inputs, what it says when an ingredient is wrong, and what was shipped."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import IMAGES, ROOT
from PIL import Image

from clipcls.encoders.spec import STARTER_FOLDER

RECIPE = ROOT / "recipes" / "starter"


@pytest.fixture(autouse=True)
def _recipe_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))


# What was shipped.


def test_the_card_names_the_digest_of_the_weights() -> None:
    digest = hashlib.sha256((STARTER_FOLDER / "open_clip_model.safetensors").read_bytes()).hexdigest()
    assert digest in (STARTER_FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in STARTER_FOLDER.iterdir()) <= 45_000_000


def test_licences_of_the_ingredients_are_there() -> None:
    import ingredients

    card = (STARTER_FOLDER / "README.md").read_text(encoding="utf-8")
    for ingredient in ingredients.ALL:
        assert ingredient.source.split(", ")[-1].removeprefix("github.com/").split("/")[-1].lower() in card.lower()
    text = "\n".join(path.read_text(encoding="utf-8") for path in STARTER_FOLDER.glob("LICENSE*"))
    for holder in ("Princeton University", "Apache License", "Francis Bond", "Microsoft"):
        assert holder in text


def test_no_noun_is_unknown_to_the_tokenizer() -> None:
    """Our own Chinese names and common words; all of both wordnets are counted by build.py."""
    import lexicon
    import open_clip
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(STARTER_FOLDER / "tokenizer.json"))
    names = lexicon.imagenet_names(open_clip.IMAGENET_CLASSNAMES)
    words = [word for name in names for word in (*name.english, *name.chinese)] + lexicon.common_chinese()
    assert len(names) == 1000
    assert [word for word in words if tokenizer.token_to_id("<unk>") in tokenizer.encode(word).ids] == []


# Ingredients.


def test_a_missing_ingredient_is_one_line(tmp_path: Path) -> None:
    done = _build("--data", str(tmp_path), "--out", str(tmp_path / "out"), env={"PATH": "", "PIP_NO_INDEX": "1"})
    assert done.returncode == 1
    assert re.fullmatch(r"build.py: .*efficientnet_lite2.*is missing.*PyPI.*\n", done.stderr), done.stderr


def test_a_changed_ingredient_is_one_line(tmp_path: Path) -> None:
    import ingredients

    (tmp_path / ingredients.IMAGES.file).write_bytes(b"another")
    with pytest.raises(ingredients.Missing, match="is not the file that this recipe knows") as caught:
        ingredients.gather(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def _build(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(RECIPE / "build.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env)


# Stages.


def test_a_stage_is_made_once_and_anew_when_what_it_depends_on_changes(tmp_path: Path) -> None:
    import stages

    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    def run(names: str = "these", **depends: Any) -> Any:
        return stages.Stages(tmp_path, lambda text: None, {"names": names}).run("stage", make, **depends)

    assert [run(steps=0), run(steps=0), run(steps=1), run(steps=0), run("others", steps=0)] == [1, 1, 2, 1, 3]


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    import stages

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.Stages(tmp_path, lambda text: None, {}).run("stage", fail)
    assert list(tmp_path.iterdir()) == []


# Pictures.


def test_a_clean_view_is_what_open_clip_sees() -> None:
    import image_tower
    import pictures
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Compose

    own = json.loads((STARTER_FOLDER / "open_clip_config.json").read_text(encoding="utf-8"))["preprocess_cfg"]
    theirs = Compose(image_transform_v2(PreprocessCfg(**own), is_train=False).transforms[:-2])  # up to the tensor
    for path in IMAGES.glob("*.jpg"):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for turned in (image, image.rotate(90, expand=True)):
            ours = pictures.view(turned, "clean", image_tower.SIZE, "")
            assert np.array_equal(np.asarray(ours), np.asarray(theirs(turned)))


@pytest.mark.parametrize("kind", ["clean", "flip", "small", "crop0", "soft0", "soft1", "odd0", "odd1", "odd2", "odd3"])
def test_a_view_is_the_same_each_time_and_differs_by_picture(kind: str) -> None:
    import pictures

    with Image.open(IMAGES / "chelsea.jpg") as opened:
        image = opened.convert("RGB")
    once, again = (np.asarray(pictures.view(image, kind, 96, "a")) for _ in range(2))
    assert once.shape == (96, 96, 3)
    assert np.array_equal(once, again)
    if kind[-1].isdigit():
        assert not np.array_equal(once, np.asarray(pictures.view(image, kind, 96, "b")))


def test_folders_are_read_from_every_tar(tmp_path: Path) -> None:
    import tarfile

    import pictures

    paths = {
        "imagenet-samples": "imagenet-samples/n01440764_tench.jpg",
        "caltech-101": "caltech-101/train/ant/image_0002.jpg",
        "groceries": "groceries/train/Fruit/Apple/Golden-Delicious/a.jpg",
    }
    for collection, path in paths.items():
        with tarfile.open(tmp_path / f"{collection}.tar", "w") as tar:
            for member in (path, path.replace("/train/", "/choose/").replace(".jpg", ".txt")):
                info = tarfile.TarInfo(member)
                info.size = 3
                tar.addfile(info, io.BytesIO(b"jpg"))
    found = [pictures.read(tmp_path, c, "" if c.startswith("imagenet") else "train") for c in paths]
    assert [picture.folder for listed in found for picture in listed] == ["n01440764", "ant", "Apple"]


# Names and loss.


def test_unknown_classes_are_taught_under_no_name() -> None:
    import concepts
    import lexicon
    import text_tower
    import torch

    synsets = {
        "1": lexicon.Synset("1", ["thing"], [], ""),
        "2": lexicon.Synset("2", ["dog", "domestic dog"], ["1"], "", ["狗"], {"dog": 5.0, "狗": 2.0}),
        "3": lexicon.Synset("3", ["dog", "cad"], ["1"], "", ["无赖"], {"dog": 1.0}),
    }
    wordnet = lexicon.WordNet(synsets)
    classes = {"2": lexicon.Name(("dog",), ("狗", "犬"))}
    taught = concepts.choose(wordnet, classes, 10, [0.0, 0.5, 0.7])
    places = torch.eye(3, text_tower.DIM)
    pairs = [("狗狗", "dog"), ("坏人", "cad")]
    everything = text_tower.corpus(wordnet, taught, places, classes, pairs)
    hidden = text_tower.corpus(wordnet, taught, places, classes, pairs, frozenset({"2"}))
    assert {"dog", "狗", "犬", "domestic dog", "cad", "狗狗"} <= {name for name, _ in everything.names}
    assert {name for name, _ in hidden.names} == {"thing", "cad", "无赖", "坏人"}
    assert everything.shares.sum() == pytest.approx(1)
    dog = everything.places[everything.names.index(("dog", "en"))]
    assert dog[1] > 5 * dog[2] > 0  # mostly the class, a little the cad

    seen = {("thing", "en"): places[2], ("狗", "zh"): places[0]}
    pictured = text_tower.corpus(wordnet, taught, places, classes, pairs, frozenset({"2"}), seen)
    thing = pictured.places[pictured.names.index(("thing", "en"))]
    assert thing[2] > thing[0] > 0  # it moved to its pictures
    assert "狗" not in {name for name, _ in pictured.names}  # unknown, pictures or not


def test_hiding_a_class_leaves_the_names_of_what_it_is_a_kind_of() -> None:
    import concepts
    import lexicon
    import text_tower
    import torch

    synsets = {
        "1": lexicon.Synset("1", ["cat"], [], "", ["猫"]),
        "2": lexicon.Synset("2", ["tabby"], ["1"], "", ["虎斑猫"]),
    }
    wordnet = lexicon.WordNet(synsets)
    places, hidden = torch.eye(2, text_tower.DIM), frozenset({"2"})

    def taught(english: str, chinese: str) -> set[str]:
        classes = {"2": lexicon.Name((english, "cat"), (chinese, "斑猫", "猫"))}
        chosen = concepts.choose(wordnet, classes, 10, [0.0, 0.5])
        return {name for name, _ in text_tower.corpus(wordnet, chosen, places, classes, [], hidden).names}

    assert taught("Tabby", "虎斑猫") == {"cat", "猫"}
    assert taught("cat", "虎斑猫") == {"猫"}  # what is measured is hidden, whatever it means


def test_the_draws_that_are_reported_share_no_class_with_those_that_chose() -> None:
    import random

    import build

    first, second, third = build.draws()
    assert [len(draw) for draw in (first, second, third)] == [150, 150, 150]
    assert len(first | second | third) == 225
    distinct = [number for number in range(1000) if number not in build.DOUBLES]
    for seed in (7, 8, 9):
        assert not (first | second | third) & set(random.Random(seed).sample(distinct, 150))


def test_glosses_tell_things_apart_by_what_not_all_glosses_say() -> None:
    import concepts
    import e5
    import torch

    chance = torch.Generator().manual_seed(0)
    said = torch.randn(500, e5.WIDTH, generator=chance) * torch.linspace(3, 0.1, e5.WIDTH) + 7
    listed = [concepts.Concept(str(i), ("a",), (), f"gloss {i}", physical=i % 5 != 0) for i in range(500)]
    read = {concept.gloss: row for concept, row in zip(listed, said, strict=True)}
    found = concepts._of_glosses(lambda texts: torch.stack([read[text] for text in texts]), listed)
    physical = found[[concept.physical for concept in listed]]
    assert torch.allclose(found.norm(dim=1), torch.ones(500), atol=1e-5)
    assert physical.mean(0).norm() < 0.1  # before: 0.97 of each was the same
    spread = physical.square().mean(0)
    assert spread.max() / spread.min() < 100  # before: 900


def test_turned_targets_lie_where_the_others_do_and_keep_their_angles() -> None:
    import concepts
    import torch
    from torch.nn.functional import normalize

    chance = torch.Generator().manual_seed(0)
    places = normalize(torch.randn(50, 8, generator=chance), dim=1)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=chance)).Q
    turned = concepts.Targets(places @ rotation, places[:9] @ rotation).turned_to(concepts.Targets(places, places[:9]))
    assert torch.allclose(turned.concepts, places, atol=1e-5)
    assert torch.allclose(turned.classes, places[:9], atol=1e-5)


def test_the_contrastive_loss_is_clips_and_spares_doubles() -> None:
    import torch
    from image_head import _contrastive
    from torch.nn.functional import cross_entropy, normalize

    torch.manual_seed(0)
    vectors, prompts = normalize(torch.randn(4, 8), dim=1), normalize(torch.randn(4, 1, 8), dim=2)
    classes, alike = torch.arange(4), torch.eye(4, dtype=torch.bool)
    logits = 20 * vectors @ prompts[:, 0].T
    expected = (cross_entropy(logits, classes) + cross_entropy(logits.T, classes)) / 2
    assert _contrastive(vectors, prompts, classes, alike).mean().item() == pytest.approx(expected.item())
    twice = _contrastive(vectors[[0, 0]], prompts, torch.tensor([0, 0]), alike)
    assert twice.tolist() == pytest.approx([0, 0])


def test_a_probe_tells_an_albums_classes_apart_and_the_head_is_told_by_its_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import image_head
    import torch
    from torch.nn.functional import normalize

    monkeypatch.setattr(image_head, "_PROBE_STEPS", 50)
    torch.manual_seed(0)
    looks = torch.randn(2, image_head.POOLED)
    truth = torch.arange(40) % 2
    pooled = looks[truth] + 0.5 * torch.randn(3, 40, image_head.POOLED)
    probe = image_head._Probe(image_head.Album(pooled, 5 + 2 * truth, 1.0))
    assert probe.classes.tolist() == [5, 7]
    assert probe.probabilities(pooled[0]).argmax(1).tolist() == truth.tolist()

    prompts = normalize(torch.randn(8, 4, image_head.DIM), dim=2)

    def head(mixed: torch.Tensor) -> torch.Tensor:
        return normalize(probe.probabilities(mixed) @ prompts[probe.classes].mean(1), dim=1)

    swapped = prompts[[0, 1, 2, 3, 4, 7, 6, 5]]
    told = image_head._imitation(head, probe, pooled[0], prompts)
    assert 0 <= told < image_head._imitation(head, probe, pooled[0], swapped)  # where the names are the wrong ones


# Figures.


def test_the_fitted_scale_is_the_one_that_made_the_answers() -> None:
    import measures

    dice = np.random.default_rng(0)
    cosines = dice.uniform(-1, 1, (4000, 3)).astype(np.float32)
    odds = np.exp(12 * cosines)
    truth = np.array([dice.choice(3, p=row / row.sum()) for row in odds])
    answers = measures.Answers(dict.fromkeys(measures.KINDS, cosines), truth)
    scale, losses = measures.fit_scale([answers])
    assert scale == pytest.approx(12, abs=1)
    assert losses[f"{scale:g}"] == min(losses.values())
    assert measures.calibration_error(measures.drawn_sets(answers, "en bare", 3), 12) < 3
    assert measures.calibration_error(measures.drawn_sets(answers, "en bare", 3), 40) > 5


def test_answers_compare_pictures_with_the_mean_of_both_sentences() -> None:
    import lexicon
    import measures

    words = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "猫": [1.0, 0.0], "狗": [0.0, 1.0]}
    swapped = {"a photo of the cat.": [0.0, 0.9], "一张猫的照片": [0.0, 0.9]}  # outweighed by the other sentence
    names = [lexicon.Name(("cat",), ("猫",)), lexicon.Name(("dog",), ("狗",))]

    def texts(prompts: Any) -> Any:
        found = [swapped.get(p) or next(v for word, v in words.items() if word in p) for p in prompts]
        return np.array(found, np.float32)

    images = np.array([[1, 0.1], [0.1, 1], [1, 0.2]], np.float32)
    answers = measures.Answers.of(images, texts, names, [0, 1, 1])
    assert answers.accuracies() == dict.fromkeys(measures.KINDS, 66.67)
    mean, low, high = answers.interval("zh")
    assert low <= mean <= high
    assert mean == pytest.approx(200 / 3)
