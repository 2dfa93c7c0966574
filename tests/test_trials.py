"""Wordings tried on labelled images, with a fake model that sees and reads colours."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Terminal
from fakes import FakeDoor, FakeEncoder, picture

from clipcls import Classifier, PromptSet
from clipcls.errors import InputError, UsageError
from clipcls.labelled import LabelledFolder, LabelledImages
from clipcls.labels import Label, label_set
from clipcls.measures import Difference, Figures, Interval, paired_difference, stratified
from clipcls.promptfiles import read_prompts
from clipcls.trials import Trial, compare, confuse, predictions, rank
from clipcls.tuning import Tuned, tune, tuned_set

Install = Callable[..., FakeDoor]

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
EACH = 6


@pytest.fixture
def folder(here: Path) -> Path:
    """Pictures that are mostly of their colour; those of green hold almost as much red."""
    for at in range(EACH):
        for name, colour in COLOURS.items():
            shade = tuple(max(0, part - 5 * at) for part in colour)
            if name == "green":
                shade = (180 + at, 220, 20)
            picture(here / "labelled" / name / f"{at}.png", shade)  # type: ignore[arg-type]
    return Path("labelled")


class Words(FakeEncoder):
    """Reads ``label 3`` as the third axis, and a template's first word as how well it says so.

    ``fine`` adds noise of its own, ``wrong`` says the next label instead, ``noise`` says nothing at all.
    """

    labels = 8

    def encode_texts(self, prompts):  # type: ignore[no-untyped-def]
        self.texts.extend(prompts)
        return np.stack([self._read(prompt) for prompt in prompts])

    def _read(self, prompt: str) -> np.ndarray:
        words = prompt.split()
        label = int(words[-1])
        vector = np.random.default_rng([len(words[0]), label, sum(map(ord, prompt))]).normal(size=16) * 0.3
        if words[0] == "wrong":
            vector[(label + 1) % self.labels] += 3
        elif words[0] != "noise":
            vector[label] += 1
        return np.asarray(vector / np.linalg.norm(vector), np.float32)


def images(each: int = 25, signal: float = 1.0, seed: int = 0) -> LabelledImages:
    dice = np.random.default_rng(seed)
    truth = np.repeat(np.arange(Words.labels), each)
    vectors = dice.normal(size=(len(truth), 16)) * 0.35
    vectors[np.arange(len(truth)), truth] += signal
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = tuple(Label(f"label {at}") for at in range(Words.labels))
    return LabelledImages(labels, tuple(f"{at}.jpg" for at in range(len(truth))), vectors.astype(np.float32), truth)


def pool(*kinds: str) -> PromptSet:
    return PromptSet("pool", tuple(f"{kind} {'x' * at}{{}}" for at, kind in enumerate(kinds, 1)), "en")


@pytest.fixture
def words(fake: Install) -> Classifier:
    fake(Words())
    return Classifier.load("fake/one", cache=False)


def test_figures_are_those_of_the_definition() -> None:
    truth = np.array([0, 0, 0, 1])
    assert Figures.of(np.array([True, True, False, False]), truth) == Figures(0.5, pytest.approx(1 / 3))
    assert Figures.of(np.array([True]), np.array([3])) == Figures(1.0, 1.0)  # classes without images do not count


def test_a_paired_difference_is_what_resampling_the_images_gives() -> None:
    dice = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], [50, 30, 20])
    old, new = dice.random(100) < 0.6, dice.random(100) < 0.75
    found = paired_difference(new, old, truth)
    groups = [np.flatnonzero(truth == each) for each in range(3)]
    draws = []
    for _ in range(4000):
        rows = np.concatenate([dice.choice(group, len(group)) for group in groups])
        draws.append(
            (
                new[rows].mean() - old[rows].mean(),
                Figures.of(new[rows], truth).recall - Figures.of(old[rows], truth).recall,
            )
        )
    for interval, drawn in zip((found.top1, found.recall), np.array(draws).T, strict=True):
        assert np.percentile(drawn, [2.5, 97.5]) == pytest.approx([interval.low, interval.high], abs=0.015)
    assert found.top1.value == pytest.approx(new.mean() - old.mean())


@pytest.mark.parametrize("each", [1, 2, 3])
def test_few_images_a_class_make_no_difference_certain(each: int) -> None:
    """Of two that are equally good one is called better in about 5% of all trials, at which some luck may lie above."""
    dice = np.random.default_rng(each)
    truth = np.repeat(np.arange(60), each)
    found = [paired_difference(dice.random(len(truth)) < 0.5, dice.random(len(truth)) < 0.5, truth) for _ in range(60)]
    assert sum(difference.top1.real for difference in found) <= 9
    assert sum(difference.recall.real for difference in found) <= 9


def test_a_difference_of_a_set_to_itself_is_no_difference() -> None:
    right = np.array([True, False, True])
    assert not paired_difference(right, right, np.array([0, 0, 1])).top1.real


def test_a_folder_a_label(fake: Install, folder: Path) -> None:
    fake()
    picture(folder / "beside.png")
    picture(folder / ".hidden" / "a.png")
    (folder / "red" / "broken.jpg").write_bytes(b"")
    picture(folder / "red" / "deeper" / "a.png", COLOURS["red"])
    with Classifier.load("fake/one") as classifier:
        found = classifier.labelled(LabelledFolder(folder))
    assert [label.name for label in found.labels] == ["blue", "green", "red"]
    assert [found.labels[at].name for at in found.truth] == [path.split("/")[1] for path in found.paths]
    assert len(found.paths) == len(found.vectors) == 3 * EACH + 1
    assert [failure.path for failure in found.failures] == ["labelled/red/broken.jpg"]


def test_folders_are_matched_in_composed_form_and_by_any_name(here: Path) -> None:
    for name in (unicodedata.normalize("NFD", "café"), "n01", "象", "dog"):
        (here / "all" / name).mkdir(parents=True)
    labels = label_set(
        [Label("café"), Label("tench", "n01"), Label("大象", synonyms=("象",)), Label("x", display="dog")]
    )
    assert LabelledFolder("all", labels).labels == labels


def test_without_a_file_of_labels_underscores_are_spaces(here: Path) -> None:
    (here / "all" / "polar_bear").mkdir(parents=True)
    (label,) = LabelledFolder("all").labels
    assert (label.name, label.column) == ("polar bear", "polar_bear")


def test_a_folder_that_is_no_label_is_named(here: Path) -> None:
    (here / "all" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"all: folders that are none of the labels: cat; add them"):
        LabelledFolder("all", label_set("dog"))


@pytest.mark.parametrize(("name", "message"), [("gone", "No such file"), ("empty", "no folders in it")])
def test_a_folder_without_folders(here: Path, name: str, message: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(InputError, match=message):
        LabelledFolder(name)


def test_one_label_cannot_be_told_apart_from_anything(fake: Install, folder: Path) -> None:
    fake()
    shutil.rmtree(folder / "red")
    shutil.rmtree(folder / "green")
    with Classifier.load("fake/one") as classifier, pytest.raises(InputError, match="two labels or more"):
        classifier.labelled(LabelledFolder(folder))


def test_compare_finds_the_better_set(words: Classifier) -> None:
    found = compare(words, images(), [pool("wrong", "fine"), "fine {}", "noise {}"])
    worse, better, noise = found
    assert better.figures.top1 > worse.figures.top1
    assert worse.difference is None and better.difference and noise.difference
    assert better.difference.top1.real and better.difference.top1.value > 0


def test_compare_says_what_classify_would_say(words: Classifier) -> None:
    shown = images()
    (tried,) = compare(words, shown, ["fine {}"])
    assert (predictions(words.zero_shot(shown.labels, "fine {}"), shown.vectors) == shown.truth).tolist() == (
        tried.correct.tolist()
    )


def test_every_choice_of_a_trial_is_what_that_set_is_by_itself(words: Classifier) -> None:
    shown = images()
    labels = (
        Label("label 0", synonyms=("y 1", "y 2")),
        Label("label 1", templates=("own 1", "own 2")),
        *shown.labels[2:],
    )
    shown = LabelledImages(labels, shown.paths, shown.vectors, shown.truth)
    named = PromptSet("p", pool("fine", "fine", "wrong").templates, labels={"label 3": ("other 3",)})
    trial = Trial(words, shown, named)
    for some in [(0,), (0, 2), (0, 1, 2)]:
        (alone,) = compare(
            words, shown, [PromptSet("p", tuple(named.templates[at] for at in some), labels=named.labels)]
        )
        assert trial.correct(some).tolist() == alone.correct.tolist()


def test_rank_shows_what_each_template_is_worth(words: Classifier) -> None:
    whole, rows = rank(words, images(), pool("fine", "fine", "wrong"))
    assert whole.templates == 3
    assert rows[-1].template.startswith("wrong") and rows[-1].cost.top1.value < 0
    assert [row.alone.top1 for row in rows] == sorted((row.alone.top1 for row in rows), reverse=True)


def test_rank_needs_two_templates(words: Classifier) -> None:
    with pytest.raises(UsageError, match="ranking needs two"):
        rank(words, images(), pool("fine"))


def test_confuse_names_the_pair_and_its_images(words: Classifier) -> None:
    shown = images(signal=3.0)
    swapped = shown.truth.copy()
    swapped[shown.truth == 2] = 5
    told = LabelledImages(shown.labels, shown.paths, shown.vectors, swapped)
    (pair, *_) = confuse(words, told, "fine {}")
    assert set(pair.labels) == {"label 2", "label 5"}
    taken = dict(zip(pair.labels, pair.taken, strict=True))
    assert taken["label 5"] == 25 and taken["label 2"] == 0
    assert set(pair.paths) == {told.paths[at] for at in np.flatnonzero(shown.truth == 2)}
    assert -1 <= pair.cosine <= 1


def test_folds_hold_their_share_of_every_class() -> None:
    truth = np.repeat([0, 1, 2], [10, 20, 3])
    folds = stratified(np.arange(33), truth, 5, seed=0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(33))
    counts = np.array([np.bincount(truth[fold], minlength=3) for fold in folds])
    assert (counts.max(0) - counts.min(0) <= 1).all()


def test_tune_drops_a_harmful_template(words: Classifier) -> None:
    result = tune(words, images(), pool("fine", "fine", "wrong", "fine"))
    assert all(template.startswith("fine") for template in result.templates)
    assert result.over_whole.top1.low > 0 and result.chosen.top1 > result.whole.top1


def test_tune_finds_no_gain_in_noise(words: Classifier) -> None:
    found = [tune(words, images(signal=0.0, seed=seed), pool(*["noise"] * 6)) for seed in range(5)]
    assert not any(result.over_whole.top1.low > 0 for result in found)
    assert all("beyond noise" in result.verdict and "pays" not in result.verdict for result in found)


@pytest.mark.slow
def test_tune_seldom_finds_a_gain_in_noise(words: Classifier) -> None:
    gains = [tune(words, images(10, 0.0, seed), pool(*["noise"] * 6)).over_whole.top1.low > 0 for seed in range(200)]
    print(f"gains found in noise: {sum(gains)} of {len(gains)}")
    assert np.mean(gains) <= 0.05


def test_the_outer_images_have_no_say(words: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen for a fold stays the same whatever its own images' labels are."""
    from clipcls import tuning

    asked: list[tuple[tuple[int, ...], list[int]]] = []
    choose = tuning._choose

    def watched(trial: Trial, rows: np.ndarray, *rest: object) -> list[int]:
        found = choose(trial, rows, *rest)  # type: ignore[arg-type]
        asked.append((tuple(rows), found))
        return found

    monkeypatch.setattr(tuning, "_choose", watched)
    shown, templates = images(10), pool("fine", "noise", "fine", "wrong")
    tune(words, shown, templates)
    first = asked[0]
    truth = shown.truth.copy()
    out = np.setdiff1d(np.arange(len(truth)), first[0])
    truth[out] = (truth[out] + 1) % Words.labels
    changed = LabelledImages(shown.labels, shown.paths, shown.vectors, truth)
    trial = Trial(words, changed, templates)
    assert choose(trial, np.array(first[0]), truth, 5, 0) == first[1]


def test_too_little_to_tune(words: Classifier) -> None:
    with pytest.raises(UsageError, match="choosing needs two"):
        tune(words, images(), pool("fine"))
    with pytest.raises(UsageError, match="too few for 5 folds"):
        tune(words, images(2), pool("fine", "fine"))


def test_a_tuned_set_can_be_read_and_says_where_it_comes_from(words: Classifier, here: Path) -> None:
    from clipcls.promptfiles import write_new

    templates = pool("fine", "wrong", "fine")
    result = tune(words, images(), templates)
    write_new(Path("best.toml"), *tuned_set(result, templates, "best", "200 images"))
    found = read_prompts(Path("best.toml"))
    assert (found.name, found.templates, found.language) == ("best", result.templates, "en")
    text = Path("best.toml").read_text("utf-8")
    assert f"top-1 {result.chosen.top1:.4f}" in text and result.verdict in text and "from pool" in found.source


def test_compare_in_a_terminal(fake: Install, folder: Path, clipcls: Terminal) -> None:
    door = fake()
    good, bad = clipcls.rows("prompts", "compare", folder, "-p", "a {}", "-p", "a {} on green")
    assert (good["prompts"], good["templates"], good["top-1"]) == ("a {}", "1", "100.0%")
    assert bad["top-1"] == "66.7%" and bad["mean recall"] == "66.7%"
    assert bad["top-1 over a {}"] == "-33.3" and bad["95% interval"] == "-33.3 to -33.3" and bad["verdict"] == "worse"
    assert "3 labels; 18 images, 0 failed" in clipcls.err
    texts, batches = len(door.encoder.texts), len(door.encoder.image_batches)
    clipcls("prompts", "compare", folder, "-p", "a {}", "-p", "the {}")
    assert len(door.encoder.texts) == texts + 3 and len(door.encoder.image_batches) == batches


def test_compare_as_json(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    found = json.loads(clipcls("prompts", "compare", folder, "-p", "a {}", "-p", "a {} on green", "--json"))
    assert found["images"] == 18 and found["labels"] == 3 and found["failed"] == []
    assert found["sets"][1]["difference"]["top1"]["value"] == pytest.approx(-1 / 3)
    assert found["sets"][0]["figures"] == {"top1": 1.0, "recall": 1.0}


def test_one_set_has_no_rival(fake: Install, folder: Path, clipcls: Terminal) -> None:
    clipcls("prompts", "compare", folder, "-p", "a {}", code=2)
    assert clipcls.err == "error: compare needs two rivals: give --prompts twice or more\n"


def test_a_seed_is_no_negative_number(fake: Install, folder: Path, clipcls: Terminal) -> None:
    door = fake()
    clipcls("prompts", "tune", folder, "-p", "zh", "--seed", "-1", code=2)
    assert door.loads == 0


@pytest.mark.parametrize("command", ["rank", "tune"])
def test_a_set_must_be_named(fake: Install, folder: Path, clipcls: Terminal, command: str) -> None:
    clipcls("prompts", command, folder, code=2)
    assert "name the prompt set with --prompts" in clipcls.err


def test_rank_in_a_terminal(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    Path("own.txt").write_text("a {}\nthe {}\n{} on green\n", "utf-8")
    whole, *rows = clipcls.rows("prompts", "rank", folder, "-p", "own.txt")
    assert whole["template"] == "all 3 together" and rows[-1]["template"] == "{} on green"
    assert json.loads(clipcls("prompts", "rank", folder, "-p", "own.txt", "--json"))["whole"]["top1"] <= 1


def test_tune_writes_a_set_that_can_be_used(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    Path("own.txt").write_text("{} on green\na {}\nthe {}\n", "utf-8")
    words = ("prompts", "tune", folder, "-p", "own.txt", "--folds", "3")
    rows = clipcls.rows(*words, "--out", "best.toml")
    assert [row["prompts"].split(",")[0] for row in rows] == ["chosen", "all 3 together", "plain"]
    assert "wrote best.toml" in clipcls.err and "beyond noise" in clipcls.err
    assert "{} on green" not in read_prompts(Path("best.toml")).templates
    kept = Path("best.toml").read_bytes()
    clipcls(*words, "--out", "best.toml", code=2)
    assert "best.toml exists and stays as it is" in clipcls.err and Path("best.toml").read_bytes() == kept
    assert clipcls.rows("classify", folder / "red", "-l", "red,green", "-p", "best.toml")[0]["label"] == "red"


def test_confuse_in_a_terminal(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    (pair,) = clipcls.rows("prompts", "confuse", folder, "-p", "a {} on green")
    assert (pair["first"], pair["second"], pair["first taken for second"]) == ("green", "red", "6 of 6")
    assert pair["images"].endswith("and 3 more")
    assert clipcls.rows("prompts", "confuse", folder, "-p", "a {}") == []
    assert "no image was taken for another label" in clipcls.err


def test_labels_of_a_file_are_the_ones_that_compete(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    Path("labels.toml").write_text(
        'labels = ["green", "blue", {name = "红", display = "red"}, "white"]\n', encoding="utf-8"
    )
    rows = clipcls.rows("prompts", "compare", folder, "-p", "a {}", "-p", "{}", "--labels-file", "labels.toml")
    assert [row["top-1"] for row in rows] == ["100.0%", "100.0%"]


def test_an_image_that_cannot_be_read_is_told_by_the_exit_code(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    for at in range(5):
        (folder / "red" / f"broken{at}.jpg").write_bytes(b"")
    for words in (("compare", "-p", "a {}", "-p", "{}"), ("rank", "-p", "a {}", "-p", "{}"), ("confuse", "-p", "a {}")):
        assert len(json.loads(clipcls("prompts", words[0], folder, *words[1:], "--json", code=3))["failed"]) == 5
    rows = clipcls.rows("prompts", "compare", folder, "-p", "a {}", "-p", "{}", code=3)
    assert len(rows) == 2 and clipcls.err.count("left out:") == 3 and "and 2 more" in clipcls.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare", "-p", "a {}", "-p", "nonsense"), "no prompt set named 'nonsense'"),
        (("rank", "-p", "plain"), "fewer than two templates"),
        (("tune", "-p", "plain"), "fewer than two templates"),
        (("tune", "-p", "zh", "--out", "best.txt"), "best.txt: a prompt set is written as .toml; name it best.toml"),
    ],
)
def test_what_makes_no_sense_is_refused_before_images_are_read(
    fake: Install, folder: Path, clipcls: Terminal, words: tuple[str, ...], message: str
) -> None:
    door = fake()
    clipcls("prompts", words[0], folder, *words[1:], code=2)
    assert message in clipcls.err and not door.loads


def test_rivals_go_by_the_names_that_they_were_given(fake: Install, folder: Path, clipcls: Terminal) -> None:
    fake()
    for name in ("one.toml", "two.toml"):
        Path(name).write_text('name = "mine"\ntemplates = ["a {}"]\n')
    rows = clipcls.rows("prompts", "compare", folder, "-p", "one.toml", "-p", "two.toml")
    assert [row["prompts"] for row in rows] == ["one.toml", "two.toml"] and "top-1 over one.toml" in rows[0]


def test_confuse_and_rank_take_the_prompts_of_the_settings(
    fake: Install, folder: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    Path("clipcls.toml").write_text('prompts = ["{} on green", "a {}"]\n')
    assert clipcls.rows("prompts", "rank", folder)[0]["template"] == "all 2 together"
    monkeypatch.setenv("CLIPCLS_PROMPTS", "nonsense")
    clipcls("prompts", "confuse", folder, code=2)


def test_folders_whose_names_differ_only_in_spaces(here: Path) -> None:
    for name in ("big  cat", "ice_cream", "ice cream", "tree_frog"):
        (here / "all" / name).mkdir(parents=True)
    labels = LabelledFolder("all").labels
    assert [label.name for label in labels] == ["big cat", "ice cream", "ice_cream", "tree frog"]
    assert [label.column for label in labels] == ["big cat", "ice cream", "ice_cream", "tree_frog"]


@pytest.mark.parametrize(
    ("over_plain", "over_whole", "verdict"),
    [(-0.01, 0.02, "keep those"), (0.02, -0.01, "choosing gains nothing"), (0.02, 0.01, "choosing pays")],
)
def test_a_choice_is_weighed_against_the_plain_prompts_and_against_all(
    over_plain: float, over_whole: float, verdict: str
) -> None:
    figures = Figures(0.9, 0.9)
    gains = [Interval(low + 0.1, low, low + 0.2) for low in (over_plain, over_whole)]
    plain, whole = (Difference(top1=gain, recall=gain) for gain in gains)
    assert verdict in Tuned((), figures, figures, figures, whole, plain, ()).verdict
