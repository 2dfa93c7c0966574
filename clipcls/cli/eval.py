"""``clipcls eval``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from clipcls.cli.common import quiet_pipe, say
from clipcls.cli.labelled import Folder, end, labelled, print_json
from clipcls.cli.options import AsJson, Cache, Debug, Device, LabelsFile, Model, Prompts, Quiet
from clipcls.cli.tables import Column, show_table
from clipcls.errors import UsageError

if TYPE_CHECKING:
    from clipcls.calibration import Calibration
    from clipcls.classifier import Classifier
    from clipcls.evaluation import Evaluation
    from clipcls.heads import ZeroShotClassifier
    from clipcls.labelled import LabelledImages
    from clipcls.measures import Interval
    from clipcls.outliers import Outlier
    from clipcls.probe import Curve
    from clipcls.records import Synonyms

_MATRIX = 12
"""Labels of which the whole confusion matrix is shown; of more the pairs that are confused most."""
_PAIRS = 10
_RANKS = 5
"""Labels that a page shows of each picture."""

_MORE = "More"


def eval(  # noqa: A001
    folder: Folder,
    truth: Annotated[
        str | None, typer.Option(help="A CSV of path and label; its paths start at DIR.", metavar="FILE")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--labels", "-l", help="All labels, if not the folders' names.")
    ] = None,
    labels_file: LabelsFile = None,
    prompts: Prompts = None,
    synonyms: Annotated[str, typer.Option(help="A label with several names: mean, or max for the best.")] = "mean",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature on half of the pictures.", rich_help_panel=_MORE)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where --calibrate writes a .toml.", rich_help_panel=_MORE),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="How many labelled pictures zero-shot is worth.", rich_help_panel=_MORE),
    ] = False,
    save_probe: Annotated[
        Path | None,
        typer.Option(help="Learn from all pictures, and write a .npz for --head.", rich_help_panel=_MORE),
    ] = None,
    outliers: Annotated[
        int, typer.Option(min=0, help="Pictures least like their folder, so many.", rich_help_panel=_MORE)
    ] = 0,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page with all of it, and the pictures.", metavar="FILE.html", rich_help_panel=_MORE),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Of --probe's pictures to learn from.", rich_help_panel=_MORE)] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of halves and draws.", rich_help_panel=_MORE)] = 0,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Judge a classifier on pictures whose labels are known.

    clipcls eval ./labelled --prompts zh
    """
    from clipcls.evaluation import evaluate, ranked
    from clipcls.probe import require_sklearn
    from clipcls.settings import Settings

    if output is not None and not calibrate:
        raise UsageError("--output is where --calibrate writes; add --calibrate, or send --json to a file")
    _refuse_existing([file for file in (output, save_probe, report) if file])
    if report:
        from clipcls.report import check_page

        check_page(report)
    if probe or save_probe:
        require_sklearn()
    with labelled(
        folder,
        truth=truth,
        labels=labels,
        labels_file=labels_file,
        model=model,
        device=device,
        cache=cache,
        quiet=quiet,
    ) as (classifier, images):
        wanted = prompts or Settings.load().prompts or None
        head = classifier.zero_shot(images.labels, wanted, synonyms=cast("Synonyms", synonyms))
        answers = ranked(head.scores, images.vectors)
        found: dict[str, Any] = {
            "evaluation": evaluate(answers, images.truth, tuple(label.column for label in images.labels), seed)
        }
        if not json_:
            _tell(found["evaluation"])
        if calibrate:
            found["calibration"] = _calibrated(classifier, head, images, output, seed)
        if probe:
            found["probe"] = _probed(images, answers.top[:, 0] == images.truth, draws, seed, quiet)
        if outliers:
            found["outliers"] = _outliers(images, outliers)
        if save_probe:
            _save(save_probe, classifier, images, seed)
        if report:
            _write_page(report, folder, head, images, found)
    if json_:
        print_json(images, model=classifier.info.spec, **{name: _plain(each) for name, each in found.items()})
    else:
        _tell_more(**{name: each for name, each in found.items() if name != "evaluation"})
    end(images)


def _refuse_existing(files: Sequence[Path]) -> None:
    """Before any work is done, a file that is there, and one that is to be two things."""
    from clipcls.textfile import refuse_existing

    for file in files:
        refuse_existing(file)
        if files.count(file) > 1:
            raise UsageError(f"{file} cannot be two things at once: name another file")


def _calibrated(
    classifier: Classifier, head: ZeroShotClassifier, images: LabelledImages, output: Path | None, seed: int
) -> Calibration:
    from clipcls.calibration import calibrated, write_calibration

    found = calibrated(head, images, classifier.info, seed)
    if output is not None:
        write_calibration(output, found)
        say(f"wrote {output}: clipcls classify ... --calibration {output}")
    return found


def _probed(images: LabelledImages, right: Any, draws: int, seed: int, quiet: bool) -> Curve:
    from clipcls.probe import curve

    return curve(images, right, draws=draws, seed=seed, watch=(lambda line: None) if quiet else say)


def _outliers(images: LabelledImages, most: int) -> list[Outlier]:
    from clipcls.outliers import outliers

    return outliers(images, most)


def _save(path: Path, classifier: Classifier, images: LabelledImages, seed: int) -> None:
    from clipcls.probe import save_probe

    info = classifier.info
    save_probe(path, images, info.fingerprint, info.spec, seed)
    say(f"wrote {path}: clipcls classify PATH... --head {path}")


def _write_page(
    file: Path, folder: str, head: ZeroShotClassifier, images: LabelledImages, found: dict[str, Any]
) -> None:
    from clipcls.cli.report import page_items
    from clipcls.pipeline import Embedded
    from clipcls.report import Page, Truth, about_head, write

    known = [Embedded(path, vector, True) for path, vector in zip(images.paths, images.vectors, strict=True)]
    truth = {path: images.labels[at].column for path, at in zip(images.paths, images.truth, strict=True)}
    records = head.records([*known, *images.failures], head.answer(top_k=_RANKS))
    page = Page(
        title=folder,
        items=page_items(records, Path.cwd(), file, truth),
        labels=tuple(label.column for label in images.labels),
        about=about_head(head, [folder]),
        truth=Truth.of(found["evaluation"], found.get("probe")),
    )
    say(f"wrote {file}, {write(page, file) / 1e6:.1f} MB")


def _plain(found: Any) -> Any:
    return [asdict(each) for each in found] if isinstance(found, list) else asdict(found)


def _tell(evaluation: Evaluation) -> None:
    with quiet_pipe():
        _tell_figures(evaluation)
        typer.echo()
        _tell_classes(evaluation)
        typer.echo()
        _tell_confusions(evaluation)


def _tell_more(
    calibration: Calibration | None = None, probe: Curve | None = None, outliers: Sequence[Outlier] = ()
) -> None:
    if calibration:
        say(
            f"temperature {calibration.temperature:.3f}, fitted on {calibration.images} pictures; on the others the "
            f"calibration error goes from {calibration.ece_before:.3f} to {calibration.ece_after:.3f}"
        )
    with quiet_pipe():
        if probe:
            typer.echo()
            _tell_probe(probe)
        if outliers:
            typer.echo()
            columns = ("picture", "label", "cosine", "usual there", "nearest")
            rows = [
                (each.path, each.label, f"{each.cosine:.3f}", f"{each.usual:.3f}", each.nearest) for each in outliers
            ]
            show_table([Column(name, right=name in ("cosine", "usual there")) for name in columns], rows)


def _tell_figures(evaluation: Evaluation) -> None:
    figures: list[tuple[str, Interval | None]] = [
        ("top-1", evaluation.top1),
        ("top-5", evaluation.top5),
        ("mean per-class recall", evaluation.recall),
        ("macro F1", evaluation.macro_f1),
        ("calibration error (ECE)", evaluation.ece),
    ]
    rows = [
        (name, f"{each.value:.1%}", f"{each.low:.1%} to {each.high:.1%}") for name, each in figures if each is not None
    ]
    show_table((Column("figure", told=True), Column("value", right=True), Column("95% interval")), rows)


def _tell_classes(evaluation: Evaluation) -> None:
    columns = ("images", "precision", "recall", "F1")
    rows = [
        (each.label, str(each.images), f"{each.precision:.1%}", f"{each.recall:.1%}", f"{each.f1:.1%}")
        for each in evaluation.classes
    ]
    show_table((Column("label"), *(Column(name, right=True) for name in columns)), rows)


def _tell_confusions(evaluation: Evaluation) -> None:
    names = [each.label for each in evaluation.classes]
    if len(names) <= _MATRIX:
        rows = [(name, *map(str, row)) for name, row in zip(names, evaluation.confusion, strict=True)]
        show_table((Column("shown \\ called"), *(Column(name, right=True, given=True) for name in names)), rows)
        return
    wrong = [
        (count, names[shown], names[called])
        for shown, row in enumerate(evaluation.confusion)
        for called, count in enumerate(row)
        if count and shown != called
    ]
    wrong.sort(key=lambda each: -each[0])
    rows = [(shown, called, str(count)) for count, shown, called in wrong[:_PAIRS]]
    show_table((Column("shown"), Column("called"), Column("images", right=True)), rows)


def _tell_probe(found: Curve) -> None:
    rows = [
        (
            "all" if point.shots is None else str(point.shots),
            str(point.images),
            f"{point.top1:.1%}",
            f"±{point.spread:.1%}" if point.draws > 1 else "",
            f"{point.top1 - found.zero_shot:+.1%}",
        )
        for point in found.points
    ]
    columns = ("images a label", "learned from", "top-1", "spread", "over zero-shot")
    show_table([Column(name, right=True) for name in columns], rows)
    say(f"zero-shot: {found.zero_shot:.1%}, on the same {found.held_out} pictures held out; {_worth(found)}")


def _worth(found: Curve) -> str:
    if found.worth is None:
        if found.points[-1].top1 >= found.zero_shot:
            return "it takes all labelled pictures of the other half to be as good"
        return "no probe of these is as good"
    if found.worth == 0:
        return "one labelled picture a label is better"
    return f"it is worth about {found.worth:.1f} labelled pictures a label"
