"""``clipcls classify``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast, get_args

import typer

from clipcls import __version__
from clipcls.cli.answers import at_least_one, left_out, sampling
from clipcls.cli.common import STARTER_NOTICE, given_labels, open_classifier, quiet_pipe, say
from clipcls.cli.options import (
    Background,
    Cache,
    Debug,
    Device,
    Exclude,
    Format,
    Fps,
    Include,
    Labels,
    LabelsFile,
    Margin,
    MaxPixels,
    Model,
    Prompts,
    Quiet,
    Recursive,
    Scenes,
    Threshold,
    TimeLimit,
)
from clipcls.cli.progress import Tally, progress_bar
from clipcls.cli.transfers import download_bar
from clipcls.errors import InputError, UsageError

if TYPE_CHECKING:
    from clipcls.heads import Head
    from clipcls.records import EncoderInfo, ImageRef, Record, Synonyms
    from clipcls.sinks import Format, ResultSink, RunInfo
    from clipcls.sources import ImageSource
    from clipcls.video import Pooling

_ANSWER, _INPUT, _MODEL, _OUTPUT = "Answer", "Images", "Model", "Output"


def classify(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Image files, folders, globs; - reads one path a line from stdin."),
    ],
    labels: Labels = None,
    labels_file: LabelsFile = None,
    prompts: Prompts = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many labels to give each image.")] = 1,
    threshold: Threshold = None,
    margin: Margin = 0.0,
    unknown_label: Annotated[
        str, typer.Option(help="What an uncertain image is called; empty by default.", rich_help_panel=_ANSWER)
    ] = "",
    background: Background = None,
    multi_label: Annotated[
        bool,
        typer.Option("--multi-label", help="Every label over the threshold, however many.", rich_help_panel=_ANSWER),
    ] = False,
    synonyms: Annotated[
        str, typer.Option(help="A label with several names: mean, or max for the best.", rich_help_panel=_ANSWER)
    ] = "mean",
    calibration: Annotated[
        Path | None,
        typer.Option(help="What eval --calibrate wrote, for better probabilities.", rich_help_panel=_ANSWER),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(help="What eval --save-probe wrote, in place of labels.", rich_help_panel=_ANSWER),
    ] = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Also the best group, and its probability.", rich_help_panel=_ANSWER)
    ] = False,
    recursive: Recursive = True,
    null: Annotated[bool, typer.Option("-0", help="Paths on stdin end in NUL bytes.", rich_help_panel=_INPUT)] = False,
    include: Include = None,
    exclude: Exclude = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after N images.", rich_help_panel=_INPUT)] = None,
    max_pixels: MaxPixels = None,
    time_limit: TimeLimit = None,
    fps: Fps = None,
    scenes: Scenes = False,
    video: Annotated[
        str, typer.Option(help="A row each of its frames, or one by their mean or max.", rich_help_panel=_ANSWER)
    ] = "frames",
    model: Model = None,
    device: Device = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, bf16, fp16 or int8.", rich_help_panel=_MODEL)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once.", rich_help_panel=_MODEL)] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and decode.", rich_help_panel=_MODEL)
    ] = None,
    strict_language: Annotated[
        bool,
        typer.Option("--strict-language", help="Labels the model cannot read are an error.", rich_help_panel=_MODEL),
    ] = False,
    cache: Cache = True,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .csv or .jsonl file.", rich_help_panel=_OUTPUT)
    ] = None,
    format: Format = None,
    all_scores: Annotated[
        bool, typer.Option("--all-scores", help="Every label's score.", rich_help_panel=_OUTPUT)
    ] = False,
    excel: Annotated[
        bool, typer.Option("--excel", help="CSV that Excel opens safely.", rich_help_panel=_OUTPUT)
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="A small picture above each row of a table.", rich_help_panel=_OUTPUT)
    ] = False,
    write_xmp: Annotated[
        bool,
        typer.Option(
            "--write-xmp", help="Labels as keywords in XMP sidecars beside the images.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    xmp_name: Annotated[
        str, typer.Option(help="short for photo.xmp, full for photo.jpg.xmp.", rich_help_panel=_OUTPUT)
    ] = "short",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.", rich_help_panel=_OUTPUT)] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a cut-off run.", rich_help_panel=_OUTPUT)
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank labels for every image.

    clipcls classify ./imgs --labels 大象,冰箱,蚂蚁
    """
    from clipcls.settings import Settings
    from clipcls.sinks import check_output, open_sink
    from clipcls.sources import ImageSource
    from clipcls.video import pooled

    settings = Settings.load(
        {
            "model": model,
            "device": device,
            "precision": precision,
            "prompts": prompts or None,
            "batch_size": batch_size,
            "workers": workers,
            "max_pixels": max_pixels,
            "time_limit": time_limit,
        }
    )
    wanted = given_labels(labels, labels_file)
    if head and (
        wanted or prompts or background or multi_label or calibration or synonyms != "mean" or strict_language
    ):
        raise UsageError("--head brings its own labels: leave out all options on labels, prompts and calibration")
    layout = _Layout(_format(format, output, excel), top_k, all_scores, excel, unknown_label)
    rule = _Rule(threshold, margin, groups)
    if unknown_label and not (threshold or margin or background or multi_label):
        raise UsageError("--unknown-label needs something to be unsure by: --threshold, --margin or --background")
    check_output(output, overwrite=overwrite, resume=resume)
    selection: dict[str, Any] = {
        "recursive": recursive,
        "include": include or [],
        "exclude": exclude or [],
        "limit": limit,
    }
    found = ImageSource(paths, null_separated=null, videos=sampling(fps, scenes=scenes), **selection)
    pooling = _pooling(video, groups=groups)
    sidecars = _sidecars(xmp_name) if write_xmp else None
    extras = {"fps": fps, "scenes": scenes, "video": pooling, "write_xmp": sidecars}
    selection |= {name: value for name, value in extras.items() if value}
    images = at_least_one(found, paths)
    tally = Tally()
    with open_classifier(settings, cache) as classifier, quiet_pipe():
        with download_bar():
            answering: Head = (
                classifier.linear(head)
                if head
                else classifier.zero_shot(
                    wanted,
                    settings.prompts or None,
                    synonyms=cast("Synonyms", synonyms),
                    background=given_labels(background, None),
                    multi_label=multi_label,
                    strict_language=strict_language,
                    calibration=calibration,
                )
            )
        # Refuses before anything is written.
        answer = answering.answer(top_k=top_k, all_scores=all_scores, **rule._asdict())
        if classifier.is_starter and not quiet:
            say(STARTER_NOTICE)
        run = _run_info(answering, classifier.info, layout, rule, paths, selection, with_versions=output is not None)
        with (
            progress_bar(tally, found.count, hidden=quiet) as rows,
            _dressed(
                open_sink(run, output, rows, overwrite=overwrite, resume=resume), answering, sidecars, show=show
            ) as sink,
            _told_when_cut_off(sink, tally, quiet=quiet),
        ):
            todo = _not_done(images, sink, by_videos=pooling is not None)
            records: Iterable[Record] = (
                pooled(tally.over(classifier.embedded(todo)), answering.scores, answer, pooling)
                if pooling
                else tally.over(answering.classify(todo, top_k=top_k, all_scores=all_scores, **rule._asdict()))
            )
            for record in records:
                sink.write(record)
    if not quiet:
        say(_summary(tally, found, sink))
    raise typer.Exit(InputError.exit_code if tally.failed + sink.failed_before else 0)


class _Layout(NamedTuple):
    """The options that decide what a row holds."""

    format: Format
    top_k: int
    all_scores: bool
    excel: bool
    unknown_label: str


class _Rule(NamedTuple):
    """The options that decide when a label is the answer."""

    threshold: float | None
    margin: float
    groups: bool


def _format(asked: str | None, output: Path | None, excel: bool) -> Format:
    from clipcls.sinks import Format, choose_format

    if asked is None and output is None and not sys.stdout.isatty():
        asked = "csv"
    if asked is not None and asked not in get_args(Format):
        raise UsageError(f"unknown format {asked!r}: use {', '.join(get_args(Format))}")
    chosen = choose_format(cast("Format | None", asked), output)
    if excel and chosen != "csv":
        raise UsageError(f"--excel is for CSV, not for {chosen}; add --format csv or --output FILE.csv")
    return chosen


def _pooling(video: str, *, groups: bool) -> Pooling | None:
    from clipcls.video import Pooling

    if video == "frames":
        return None
    if video not in get_args(Pooling):
        raise UsageError(f"unknown --video {video!r}: use frames, {', '.join(get_args(Pooling))}")
    if groups and video == "max":
        raise UsageError("--groups adds probabilities up, which those of different frames do not: use --video mean")
    return cast("Pooling", video)


def _sidecars(name: str) -> str:
    if name not in ("short", "full"):
        raise UsageError(f"unknown --xmp-name {name!r}: use short for photo.xmp, or full for photo.jpg.xmp")
    return name


def _dressed(sink: ResultSink, head: Head, sidecars: str | None, *, show: bool) -> ResultSink:
    """The sink, with pictures if it is a table on a terminal that can show them, and with sidecars."""
    if show and not sys.stdout.isatty():
        say("--show is for a terminal, which stdout is not")
    if show and sys.stdout.isatty():
        from clipcls.sinks.pictures import Pictures, terminal
        from clipcls.sinks.table import TableSink

        kind = terminal(os.environ)
        if kind and isinstance(sink, TableSink):
            sink.picture = Pictures(kind).of
    if sidecars:
        from clipcls.sinks.xmp import XmpSink

        return XmpSink(sink, head.labels, full=sidecars == "full")
    return sink


def _run_info(
    head: Head,
    info: EncoderInfo,
    layout: _Layout,
    rule: _Rule,
    paths: list[str],
    selection: dict[str, Any],
    *,
    with_versions: bool,
) -> RunInfo:
    from clipcls.heads import called
    from clipcls.sinks import LabelInfo, LabelPrompts, RunInfo

    by_templates: dict[tuple[str, ...], list[str]] = {}
    for wording in head.wordings:
        by_templates.setdefault(wording.templates, []).append(called(wording))
    return RunInfo(
        versions=_versions() if with_versions else {},
        model=info.spec,
        fingerprint=info.fingerprint,
        precision=info.precision,
        logit_scale=info.logit_scale,
        logit_bias=info.logit_bias,
        activation=info.activation,
        labels=tuple(LabelInfo(label.name, label.column, label.id) for label in head.labels),
        prompts=tuple(LabelPrompts(tuple(names), templates) for templates, names in by_templates.items()),
        synonyms=head.synonyms,
        background=tuple(label.name for label in head.background),
        multi_label=head.multi_label,
        temperature=head.temperature,
        head=head.file_digest,
        threshold=rule.threshold,
        margin=rule.margin,
        groups=tuple(label.group or label.column for label in head.labels) if rule.groups else (),
        base=os.getcwd(),
        paths=tuple(paths),
        selection=selection,
        **layout._asdict(),
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"clipcls": __version__}
    for name in ("open_clip_torch", "torch", "transformers", "onnxruntime", "tokenizers", "pillow", "numpy", "av"):
        with suppress(PackageNotFoundError):  # another build may go by another name
            versions[name] = version(name)
    return versions


def _not_done(images: Iterable[ImageRef], sink: ResultSink, *, by_videos: bool) -> Iterator[ImageRef]:
    """The images without a row from the run that is resumed; a path that comes twice has two rows.

    Args:
        by_videos: whether the row of a video stands for all its frames.
    """
    from clipcls.sinks import written_path
    from clipcls.video import by_video

    if sink.already_complete:
        return
    done = sink.done.copy()
    for video, shown in by_video(images, lambda ref: ref.id) if by_videos else [(None, images)]:
        if video and done[written_path(video)]:
            done[written_path(video)] -= 1
            continue
        for ref in shown:
            if done and done[written_path(ref.id)]:
                done[written_path(ref.id)] -= 1
            else:
                yield ref


@contextmanager
def _told_when_cut_off(sink: ResultSink, tally: Tally, *, quiet: bool) -> Iterator[None]:
    """Tell where the rows of a run lie that does not reach its end."""
    try:
        yield
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt) and not quiet:
            say(f"interrupted: {tally.line()}")
        if sink.partial:
            say(f"the rows so far are in {sink.partial}; the same command with --resume goes on")
        raise


def _summary(tally: Tally, found: ImageSource, sink: ResultSink) -> str:
    if sink.already_complete:
        return "nothing to do: the file is complete"
    before = f"{sink.done.total()} done before; " if sink.done else ""
    return f"{before}{tally.line()}{left_out(found)}"
