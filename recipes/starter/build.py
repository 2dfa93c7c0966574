"""Make the starter model from public ingredients.

    python recipes/starter/build.py --data DIR --out DIR

DIR of --data holds the pictures and the Chinese wordnet; the packages are downloaded where it lacks them. OUT/model is
the shipped folder, OUT/figures.json what was measured on the way, OUT/stages what a second run need not make again.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two kinds of threads share the cores

import trace

import concepts
import e5
import export
import image_head
import image_tower
import ingredients
import lexicon
import measures
import open_clip
import text_tower
import torch
import vocabulary
from lexicon import Name
from pictures import read, reports
from stages import Stages
from torch import Tensor
from torch.nn.functional import normalize

import prompts
from clipcls.encoders import file_digest
from clipcls.errors import ClipclsError

PIECES = 22500
OTHER_CONCEPTS = 8000
HELD_OUT_STEPS = 2100
FINAL_STEPS = 650
PICTURED_STEPS = 200
HEAD_STEPS = 900
PICTURED = ("caltech-101",)
"""Collections whose names move to their pictures; of groceries the classifier's opinion is too much the same."""
CONTRAST = {"imagenet-samples": 0.1, "caltech-101": 2.5, "groceries": 1.7}
"""Weight of each collection's contrastive loss: what more of it gains on classes with pictures, it costs the others."""
PLAIN = ("clean", "flip", "crop0", "crop1", "crop2", "crop3")
ROUGH = ("soft0", "odd0", "soft1", "odd1", "soft2", "odd2", "soft3", "odd3", "soft4", "odd4")
FEWER = ("clean", "flip", "crop0", "crop1", "soft0", "soft1", "soft2", "odd0", "odd1")
VIEWS = {
    "imagenet-samples": (*PLAIN, *ROUGH),
    "caltech-101": FEWER,
    "groceries": FEWER,
}
CHOOSE_VIEWS = ("clean", "small")
DOUBLES = {435, 461, 482, 524, 540, 620, 638, 639, 657, 664, 681, 744, 782, 836, 837, 848, 876}
"""Classes of ImageNet whose English name or pictures another class shares."""
SHOWN = {
    "airplane": {895}, "anchor": {600}, "barrel": {756}, "motorcycle": {670}, "stop sign": {919},
    "windsor chair": {423, 559},
}  # fmt: skip
"""Classes that a folder's pictures may show though WordNet does not say so: an airplane may be a military one."""


@dataclass(slots=True)
class Bench:
    """What all stages share."""

    paths: dict[ingredients.Ingredient, Path]
    stages: Stages
    seed: int
    fraction: float
    wordnet: lexicon.WordNet
    offsets: list[str]
    classes: dict[str, Name]
    folders: dict[str, dict[str, Name]]

    def steps(self, full: int) -> int:
        return max(2, round(full * self.fraction))

    def known(self, unknown: frozenset[int]) -> list[int]:
        """The classes of ImageNet but for the unknown ones, in order."""
        return [number for number in range(len(self.offsets)) if number not in unknown]

    @property
    def data(self) -> Path:
        return self.paths[ingredients.PICTURES[0]].parent


def build(data: Path, out: Path, seed: int, fraction: float) -> None:
    """Make everything, from the ingredients to OUT/model and OUT/figures.json."""
    torch.manual_seed(seed)
    _keep_freed_memory()
    bench = _prepare(data, out, seed, fraction)
    made = _vocabulary(bench)
    trunk = image_tower.trunk(bench.paths[ingredients.IMAGES])
    seen = _pictures(bench, trunk)
    taught, meanings = _meanings(bench)
    kept_out = draws()
    unknown = frozenset().union(*kept_out)
    partial = _targets(bench, trunk, taught, meanings, "targets-held-out", unknown)
    goals = _targets(bench, trunk, taught, meanings, "targets-final").turned_to(partial)

    held_out = text_tower.TextTower(_start(bench, made), made["tokenizer"])
    _teach(bench, held_out, "text-held-out", [HELD_OUT_STEPS], taught, partial, unknown)
    unpictured = copy.deepcopy(held_out)
    _teach(bench, unpictured, "text-unpictured", [HELD_OUT_STEPS, FINAL_STEPS], taught, goals)
    shown = _pictured(bench, trunk, partial, seen, unknown)
    _teach(bench, held_out, "text-held-out-pictured", [HELD_OUT_STEPS, PICTURED_STEPS], taught, partial, unknown, shown)
    tower, shown = copy.deepcopy(unpictured), _pictured(bench, trunk, goals, seen)
    _teach(bench, tower, "text-final", [HELD_OUT_STEPS, FINAL_STEPS, PICTURED_STEPS], taught, goals, pictured=shown)

    figures: dict[str, Any] = {"seed": seed, "steps": fraction, "unreadable nouns": _unreadable(bench, made)}
    figures["unknown"] = _unknown_classes(bench, trunk, held_out, partial, seen, kept_out)
    stranger = _head(bench, trunk, goals, _bank(bench, unpictured), seen, "head-without-caltech", ("groceries",))
    head = _head(bench, trunk, goals, _bank(bench, tower), seen, "head-final", ("caltech-101", "groceries"))
    pairs = ((unpictured, stranger), (tower, head))
    scale, figures["scale"] = measures.fit_scale([_answers(bench, *pair, seen, reporting=False) for pair in pairs])
    figures["caltech unknown"] = _caltech(bench, unpictured, stranger, seen)
    export.write(out / "model", trunk, head, tower, scale)
    trace.trace(out / "model")
    (out / "figures.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _prepare(data: Path, out: Path, seed: int, fraction: float) -> Bench:
    paths = ingredients.gather(data, out / "ingredients")
    for each in paths:
        say(f"{each.file}: {each.what}; {each.source} {each.version}; {each.licence}; SHA-256 {each.sha256}")
    english = ingredients.unpack_deb(paths[ingredients.WORDNET], out / "ingredients" / "wordnet")
    wordnet = lexicon.read_wordnet(english, paths[ingredients.CHINESE[0]].parent)
    offsets = [picture.folder[1:] for picture in read(paths[ingredients.PICTURES[0]].parent, "imagenet-samples")]
    classes = dict(zip(offsets, lexicon.imagenet_names(open_clip.IMAGENET_CLASSNAMES), strict=True))
    folders = {collection: lexicon.folder_names(collection) for collection in ("caltech-101", "groceries")}
    own = {
        "ingredients": [each.sha256 for each in paths],
        "names": [file_digest(path) for path in sorted([*lexicon.NAMES.iterdir(), Path(prompts.__file__)])],
        "open_clip": open_clip.__version__,
        "sizes": [PIECES, OTHER_CONCEPTS, text_tower.LAYERS, image_tower.SIZE, image_tower.ARCH],
        "choices": concepts.CHOICES,
        "draws": [sorted(each) for each in draws()],
        "seed": seed,
    }
    return Bench(paths, Stages(out / "stages", say, own), seed, fraction, wordnet, offsets, classes, folders)


def _keep_freed_memory() -> None:
    """Let the allocator keep what tensors free: to fetch it anew from the system takes a tenth of the time."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(option, 2**30)


def say(text: str) -> None:
    """Tell how far it is, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def draws() -> list[frozenset[int]]:
    """Three draws of 150 classes of ImageNet that are kept unknown and reported; each two share 75.

    None is a double, nor in a draw that chose the recipe.
    """
    distinct = [number for number in range(1000) if number not in DOUBLES]
    chose = {number for seed in (7, 8, 9) for number in random.Random(seed).sample(distinct, 150)}
    random.Random(1).shuffle(shuffled := distinct.copy())
    chose.update(shuffled[:225])
    drawn = random.Random(0).sample([number for number in distinct if number not in chose], 225)
    return [frozenset(drawn[:150]), frozenset(drawn[75:]), frozenset(drawn[:75] + drawn[150:])]


def _vocabulary(bench: Bench) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        names = [*bench.classes.values(), *(name for own in bench.folders.values() for name in own.values())]
        must = [text for name in names for text in (*name.english, *name.chinese)]
        must += [word for pair in lexicon.word_pairs() for word in pair] + lexicon.common_chinese()
        must += [template.replace("{}", "x") for template in (*prompts.ENGLISH, *prompts.CHINESE)]
        must += [template("x") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
        model = e5.read(bench.paths[ingredients.TEXTS])
        chosen = vocabulary.choose(model, bench.wordnet, must, PIECES)
        return {"tokenizer": chosen.tokenizer, "kept": chosen.kept, "born": chosen.born, "mask": chosen.mask}

    return bench.stages.run("vocabulary", make)


def _unreadable(bench: Bench, made: dict[str, Any]) -> dict[str, str]:
    """How many of the wordnets' nouns the vocabulary cannot spell."""
    tokenizer = vocabulary.Tokenizer.from_str(made["tokenizer"])
    synsets = bench.wordnet.synsets.values()
    nouns = {"en": {name for synset in synsets for name in synset.english}}
    nouns["zh"] = {name for synset in synsets for name in synset.chinese}
    found = {language: sum(e5.UNK in tokenizer.encode(name).ids for name in names) for language, names in nouns.items()}
    return {language: f"{count} of {len(nouns[language])}" for language, count in found.items()}


def _start(bench: Bench, made: dict[str, Any]) -> dict[str, Tensor]:
    """e5's tensors with the smaller embedding table."""
    tensors = e5.read(bench.paths[ingredients.TEXTS]).tensors
    words = "embeddings.word_embeddings.weight"
    return tensors | {words: vocabulary.Vocabulary(**made).table(tensors[words], bench.seed)}


def _pictures(bench: Bench, trunk: torch.nn.Module) -> dict[str, Tensor]:
    """Pooled features: float32 [views, pictures, 1280] of every collection, and of the pictures to choose by."""
    jobs = [("imagenet-samples", "", VIEWS["imagenet-samples"])]
    jobs += [(collection, "train", VIEWS[collection]) for collection in bench.folders]
    jobs += [(collection, "choose", CHOOSE_VIEWS) for collection in bench.folders]
    found = {}
    for collection, part, views in jobs:
        name = f"{collection}-{part}".rstrip("-")

        def make(collection: str = collection, part: str = part, views: Sequence[str] = views) -> Tensor:
            return torch.from_numpy(image_tower.features(trunk, read(bench.data, collection, part), views, bench.seed))

        found[name] = bench.stages.run(f"pictures-{name}", make, views=views)
    return found


def _meanings(bench: Bench) -> tuple[list[concepts.Concept], Tensor]:
    """The concepts, and what e5 says of each: float32 [concepts, 768], unit rows."""
    chance = random.Random(bench.seed)
    taught = concepts.choose(
        bench.wordnet, bench.classes, OTHER_CONCEPTS, [chance.random() for _ in bench.wordnet.synsets]
    )

    def make() -> Tensor:
        return concepts.meanings(e5.read(bench.paths[ingredients.TEXTS]), taught, bench.classes, bench.seed)

    return taught, bench.stages.run("meanings", make)


def _targets(
    bench: Bench, trunk: torch.nn.Module, taught: list[concepts.Concept], meanings: Tensor, name: str,
    unknown: frozenset[int] = frozenset(),
) -> concepts.Targets:  # fmt: skip
    """Places of all concepts, fitted to the classes that are not kept unknown."""

    def make() -> dict[str, Tensor]:
        known = bench.known(unknown)
        places = concepts.positions(bench.wordnet, taught, [bench.offsets[number] for number in known])
        row = {concept.offset: number for number, concept in enumerate(taught)}
        weights = trunk.classifier.weight.detach()
        made = concepts.targets(meanings, places, weights, [row[offset] for offset in bench.offsets], known)
        return {"concepts": made.concepts, "classes": made.classes}

    return concepts.Targets(**bench.stages.run(name, make))


def _teach(
    bench: Bench, tower: text_tower.TextTower, name: str, steps: Sequence[int], taught: list[concepts.Concept],
    goals: concepts.Targets, unknown: frozenset[int] = frozenset(),
    pictured: Mapping[tuple[str, str], Tensor] | None = None,
) -> None:  # fmt: skip
    """Train the tower on every name but those of the unknown classes.

    It goes on from where it is, after all but the last of ``steps``.
    """
    steps = [bench.steps(each) for each in steps]

    def make() -> dict[str, Tensor]:
        hidden = frozenset(bench.offsets[number] for number in unknown)
        pairs = lexicon.word_pairs()
        texts = text_tower.corpus(bench.wordnet, taught, goals.concepts, bench.classes, pairs, hidden, pictured)
        if len(steps) == 1:
            text_tower.start_projection(tower, texts, bench.seed)
        text_tower.train(
            tower, texts, steps[-1], bench.seed, report=lambda step, cosine: say(f"  step {step}: cosine {cosine:.4f}")
        )
        return tower.state_dict()

    depends: dict[str, Any] = {"steps": steps, "choices": text_tower.CHOICES}
    if pictured:
        depends["pictured"] = [*PICTURED, *VIEWS[PICTURED[0]], image_head.SOFTNESS]
    tower.load_state_dict(bench.stages.run(name, make, **depends))


def _pictured(
    bench: Bench, trunk: torch.nn.Module, goals: concepts.Targets, seen: dict[str, Tensor],
    unknown: frozenset[int] = frozenset(),
) -> dict[tuple[str, str], Tensor]:  # fmt: skip
    """Where the pictures of each name lie in the classifier's opinion, by name and language: float32 [384]."""
    classifier = _classifier(trunk, goals.classes, bench.known(unknown))
    found: dict[tuple[str, str], Tensor] = {}
    for collection in PICTURED:
        listed = [bench.folders[collection][picture.folder] for picture in read(bench.data, collection, "train")]
        opinions = torch.stack([classifier.opinion(view) for view in seen[f"{collection}-train"]]).mean(0)
        for label in lexicon.labels(bench.folders[collection]):
            if _shows(bench, label, unknown):
                continue
            place = normalize(opinions[torch.tensor([own == label for own in listed])].mean(0), dim=0)
            found |= {(word, language): place for language in ("en", "zh") for word in label.of(language)}
    return found


def _classifier(trunk: torch.nn.Module, places: Tensor, known: list[int]) -> image_head.Classifier:
    """The published last layer with the known classes alone, each at its place: of ``places``, float32 [1000, 384]."""
    weight, bias = trunk.classifier.weight.detach()[known], trunk.classifier.bias.detach()[known]
    return image_head.Classifier(weight, bias, normalize(places[known], dim=1))


def _bank(bench: Bench, tower: text_tower.TextTower) -> dict[str, Tensor]:
    """Eight prompts of every name, four in each language: float32 [names, 8, 384] for each collection."""
    named = {"imagenet-samples": list(bench.classes.values())}
    named |= {collection: lexicon.labels(own) for collection, own in bench.folders.items()}
    return {collection: _bank_of(tower, names) for collection, names in named.items()}


def _bank_of(tower: text_tower.TextTower, names: Sequence[Name]) -> Tensor:
    texts = []
    for number, name in enumerate(names):
        for own, templates in ((name.english, prompts.ENGLISH), (name.chinese, prompts.CHINESE)):
            for i in range(4):
                template = "{}" if i == 0 else templates[(3 * number + i) % len(templates)]
                texts.append(template.replace("{}", own[i % len(own)]))
    return tower.encode(texts).unflatten(0, (len(names), 8))


def _head(
    bench: Bench, trunk: torch.nn.Module, goals: concepts.Targets, bank: dict[str, Tensor], seen: dict[str, Tensor],
    name: str, collections: Iterable[str], unknown: frozenset[int] = frozenset(),
) -> image_head.Head:  # fmt: skip
    """A head taught with the ImageNet samples and these collections, without whatever shows an unknown class."""
    known = bench.known(unknown)
    own = normalize(bank["imagenet-samples"].mean(1), dim=1)
    classifier = _classifier(trunk, goals.classes + own, known)
    pooled = seen["imagenet-samples"][:, known]
    albums = [image_head.Album(pooled, torch.arange(len(known)), CONTRAST["imagenet-samples"])]
    vectors = [bank["imagenet-samples"][known]]
    for collection in collections:
        labels = lexicon.labels(bench.folders[collection])
        showing = {name for name in labels if _shows(bench, name, unknown)}
        kept, classes = [], []
        for row, picture in enumerate(read(bench.data, collection, "train")):
            label = bench.folders[collection][picture.folder]
            if label not in showing:
                kept.append(row)
                classes.append(sum(map(len, vectors)) + labels.index(label))
        pooled = seen[f"{collection}-train"][:, kept]
        albums.append(image_head.Album(pooled, torch.tensor(classes), CONTRAST[collection]))
        vectors.append(bank[collection])

    def make() -> dict[str, Tensor]:
        steps = bench.steps(HEAD_STEPS)
        return image_head.train(classifier, albums, len(PLAIN), torch.cat(vectors), steps, bench.seed).state_dict()

    head = image_head.Head()
    steps = [bench.steps(each) for each in (HELD_OUT_STEPS, FINAL_STEPS, PICTURED_STEPS, HEAD_STEPS)]
    depends = {
        "steps": steps, "contrast": CONTRAST, "views": VIEWS, "shown": [len(album.classes) for album in albums],
        "choices": [*text_tower.CHOICES, *image_head.CHOICES],
    }  # fmt: skip
    head.load_state_dict(bench.stages.run(name, make, **depends))
    return head.eval()


def _shows(bench: Bench, name: Name, unknown: frozenset[int]) -> bool:
    """Whether pictures of this name may show an unknown class: it is called so, is a kind of it, or it of that."""
    if not unknown:
        return False
    english = name.english[0].lower()
    senses = [synset.offset for synset in bench.wordnet.synsets.values() if english in map(str.lower, synset.english)]
    below = frozenset().union(*map(bench.wordnet.ancestors, senses))
    for number in unknown:
        offset = bench.offsets[number]
        words = {
            word.lower() for above in bench.wordnet.ancestors(offset) for word in bench.wordnet.synsets[above].english
        }
        plain = bench.classes[offset]
        called = any(re.search(rf"\b{re.escape(word.lower())}\b", english) for word in plain.english)
        if offset in below or english in words or called or set(name.chinese) & set(plain.chinese):
            return True
        if number in SHOWN.get(english, ()):
            return True
    return False


def _unknown_classes(
    bench: Bench, trunk: torch.nn.Module, tower: text_tower.TextTower, goals: concepts.Targets, seen: dict[str, Tensor],
    draws: Sequence[frozenset[int]],
) -> list[dict[str, float]]:  # fmt: skip
    """Top-1 among 150 classes whose names and pictures were kept out, over six views: one row a draw."""
    bank = _bank(bench, tower)
    rows = []
    for number, hidden in enumerate(draws):
        head = _head(bench, trunk, goals, bank, seen, f"head-unknown-{number}", ("caltech-101", "groceries"), hidden)
        order = sorted(hidden)
        names = [bench.classes[bench.offsets[each]] for each in order]
        pooled = seen["imagenet-samples"][: len(PLAIN)][:, order].flatten(0, 1)
        answers = measures.Answers.of(
            head(pooled).detach().numpy(), _texts(tower), names, list(range(len(order))) * len(PLAIN)
        )
        rows.append(answers.accuracies())
        say(f"  unknown classes, draw {number}: {rows[-1]}")
    return rows


def _answers(
    bench: Bench, tower: text_tower.TextTower, head: image_head.Head, seen: dict[str, Tensor], reporting: bool,
    view: str = "clean",
) -> measures.Answers:  # fmt: skip
    """What both towers answer to Caltech-101's pictures of the half that chooses or the half that reports."""
    listed = read(bench.data, "caltech-101", "choose")
    rows = [row for row, picture in enumerate(listed) if reports(picture.name) == reporting]
    names = lexicon.labels(bench.folders["caltech-101"])
    truth = [names.index(bench.folders["caltech-101"][listed[row].folder]) for row in rows]
    pooled = seen["caltech-101-choose"][CHOOSE_VIEWS.index(view)][rows]
    return measures.Answers.of(head(pooled).detach().numpy(), _texts(tower), names, truth)


def _texts(tower: text_tower.TextTower) -> Callable[[Sequence[str]], measures.Floats]:
    return lambda texts: tower.encode(texts).numpy()


def _caltech(
    bench: Bench, tower: text_tower.TextTower, head: image_head.Head, seen: dict[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """Top-1 of a head that saw nothing of Caltech-101, on the half that reports, with 95% intervals of the means."""
    found = {}
    for view in CHOOSE_VIEWS:
        answers = _answers(bench, tower, head, seen, reporting=True, view=view)
        intervals = {
            f"{language} interval": [round(end, 1) for end in answers.interval(language)]
            for language in prompts.MEASURED
        }
        found[view] = answers.accuracies() | intervals
    return found


def main() -> int:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=float, default=1.0, help="fraction of all training steps, for a trial")
    asked = parser.parse_args()
    try:
        build(asked.data, asked.out, asked.seed, asked.steps)
    except (ingredients.Missing, ClipclsError, ValueError) as exc:
        print(f"build.py: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
