"""``clipcls prompts compare|rank|tune|confuse``: wordings tried on a folder with one folder a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipcls.cli.common import say
from clipcls.cli.completion import a_prompt_set
from clipcls.cli.labelled import Folder, end, labelled, print_json
from clipcls.cli.options import AsJson, Cache, Debug, Device, LabelsFile, Model
from clipcls.cli.tables import Column, show_table
from clipcls.errors import UsageError

if TYPE_CHECKING:
    from clipcls.measures import Difference, Figures
    from clipcls.prompts import PromptSet
    from clipcls.trials import Confusion
    from clipcls.tuning import Tuned

OneSet = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        "-p",
        autocompletion=a_prompt_set,
        help="A prompt set, file or template; several are taken together.",
    ),
]
_SHOWN = 3
"""Images of a pair that are told by name."""
_FIGURES = (Column("top-1", right=True), Column("mean recall", right=True))
_VERDICT = (Column("95% interval"), Column("verdict", told=True))


def register(app: typer.Typer) -> None:
    """Add the commands to ``clipcls prompts``."""
    for command in (compare, rank, tune, confuse):
        app.command()(command)


def compare(
    folder: Folder,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts", "-p", autocompletion=a_prompt_set, help="A prompt set, file or template: a rival each."
        ),
    ] = None,
    labels_file: LabelsFile = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare prompt sets on images whose labels are known, and tell whether a difference is real.

    clipcls prompts compare DIR --prompts zh --prompts mine.toml
    """
    from clipcls.promptfiles import load_prompts
    from clipcls.trials import compare

    if len(prompts or ()) < 2:
        raise UsageError("compare needs two rivals: give --prompts twice or more")
    rivals = [replace(load_prompts(each), name=each) for each in prompts or ()]
    with labelled(folder, labels_file=labels_file, model=model, device=device, cache=cache) as (classifier, images):
        tried = compare(classifier, images, rivals)
    if json_:
        found = [asdict(each) for each in tried]
        print_json(images, sets=[{key: each[key] for key in each if key != "correct"} for each in found])
    else:
        rows = [(each.name, str(each.templates), *_shown(each.figures), *_compared(each.difference)) for each in tried]
        compared = (Column(f"top-1 over {tried[0].name}", right=True), *_VERDICT)
        show_table((Column("prompts"), Column("templates", right=True), *_FIGURES, *compared), rows)
    end(images)


def rank(
    folder: Folder,
    prompts: OneSet = None,
    labels_file: LabelsFile = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Rank the templates of a set: each one alone, and what leaving it out of the ensemble costs.

    clipcls prompts rank DIR --prompts zh
    """
    from clipcls.trials import rank

    prompt_set = _pool(prompts)
    with labelled(folder, labels_file=labels_file, model=model, device=device, cache=cache) as (classifier, images):
        whole, ranked = rank(classifier, images, prompt_set)
    if json_:
        print_json(images, whole=asdict(whole.figures), templates=[asdict(row) for row in ranked])
    else:
        rows = [(f"all {whole.templates} together", *_shown(whole.figures), "", "", "")]
        rows += [(row.template, *_shown(row.alone), *_compared(row.cost, "costs", "helps")) for row in ranked]
        show_table((Column("template"), *_FIGURES, Column("leaving it out costs", right=True), *_VERDICT), rows)
    end(images)


def tune(
    folder: Folder,
    prompts: OneSet = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the chosen set to this .toml file.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
    labels_file: LabelsFile = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Choose the templates that work best on your images, and measure that on images that had no part in it.

    clipcls prompts tune DIR --prompts zh --out best.toml
    """
    from clipcls.promptfiles import check_new, write_new
    from clipcls.tuning import tune, tuned_set

    pool = _pool(prompts)
    if out is not None:
        out = check_new(out)
    with labelled(folder, labels_file=labels_file, model=model, device=device, cache=cache) as (classifier, images):
        spec = classifier.info.spec
        result = tune(classifier, images, pool, folds=folds, seed=seed)
    if json_:
        print_json(images, **asdict(result))
    else:
        _tell_tuned(result, len(pool.templates))
    if out is not None:
        write_new(out, *tuned_set(result, pool, out.stem, f"{len(images.paths)} images of {folder}, model {spec}"))
        say(f"wrote {out}")
    end(images)


def confuse(
    folder: Folder,
    prompts: OneSet = None,
    top: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 10,
    labels_file: LabelsFile = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show which labels are taken for each other, how close their prompts are, and on which images.

    clipcls prompts confuse DIR --prompts zh
    """
    from clipcls.settings import Settings
    from clipcls.trials import confuse

    with labelled(folder, labels_file=labels_file, model=model, device=device, cache=cache) as (classifier, images):
        pairs = confuse(classifier, images, prompts or Settings.load().prompts or None)[:top]
    if json_:
        print_json(images, pairs=[asdict(pair) for pair in pairs])
    else:
        _tell_confused(pairs)
    end(images)


def _tell_confused(pairs: Sequence[Confusion]) -> None:
    if not pairs:
        say("no image was taken for another label")
    rows = [
        (
            *pair.labels,
            f"{pair.taken[0]} of {pair.images[0]}",
            f"{pair.taken[1]} of {pair.images[1]}",
            f"{pair.cosine:.3f}",
            _some(pair.paths),
        )
        for pair in pairs
    ]
    names = ("first", "second", "first taken for second", "second for first")
    show_table((*map(Column, names), Column("cosine", right=True), Column("images")), rows)


def _pool(prompts: list[str] | None) -> PromptSet:
    """The templates to choose among: those asked for, or else those of the settings."""
    from clipcls.promptfiles import load_prompts
    from clipcls.settings import Settings

    wanted = prompts or Settings.load().prompts
    if not wanted:
        raise UsageError("name the prompt set with --prompts, such as --prompts zh")
    found = load_prompts(wanted)
    if len(found.templates) < 2:
        raise UsageError(f"{found.name} has fewer than two templates for any label, so there is nothing to choose")
    return found


def _shown(figures: Figures) -> tuple[str, str]:
    return f"{figures.top1:.1%}", f"{figures.recall:.1%}"


def _compared(difference: Difference | None, worse: str = "worse", better: str = "better") -> tuple[str, str, str]:
    """A difference in top-1 in points, its interval, and what to make of it."""
    if difference is None:
        return "", "", ""
    value, low, high = (f"{100 * each:+.1f}" for each in astuple(difference.top1))
    verdict = better if difference.top1.value > 0 else worse
    return value, f"{low} to {high}", verdict if difference.top1.real else "within noise"


def _tell_tuned(result: Tuned, pool: int) -> None:
    rows = [
        (f"chosen, {_range(result.sizes)} of {pool} templates", *_shown(result.chosen), "", "", ""),
        (f"all {pool} together", *_shown(result.whole), *_compared(result.over_whole)),
        ("plain", *_shown(result.plain), *_compared(result.over_plain)),
    ]
    compared = (Column("the choice over it", right=True), *_VERDICT)
    show_table((Column("prompts"), *_FIGURES, *compared), rows)
    say(result.verdict)
    for template in result.templates:
        say(f"  {template}")


def _range(sizes: tuple[int, ...]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])


def _some(paths: tuple[str, ...]) -> str:
    return " ".join(paths[:_SHOWN]) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
