"""``clipcls classify``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast, get_args

import typer

from clipcls.cli.answers import left_out, sampling
from clipcls.cli.common import STARTER_NOTICE, given_labels, open_classifier, quiet_pipe, say, versions
from clipcls.cli.language import told
from clipcls.cli.options import (
    Actors,
    Address,
    Background,
    BatchSize,
    Cache,
    Debug,
    Device,
    Engine,
    Exclude,
    Fps,
    GpusPerActor,
    ImageColumn,
    Include,
    Labels,
    LabelsFile,
    Limit,
    Margin,
    MaxPixels,
    Model,
    Null,
    Precision,
    Prompts,
    Quiet,
    Recursive,
    Resume,
    Scenes,
    ShardSize,
    Threshold,
    TimeLimit,
    Workers,
)
from clipcls.cli.progress import Tally, progress_bar
from clipcls.cli.sharded import Doer, Work, do, images_of, in_shards, is_folder
from clipcls.cli.transfers import download_bar
from clipcls.errors import InputError, UsageError

if TYPE_CHECKING:
    from clipcls.heads import Head
    from clipcls.records import EncoderInfo, ImageRef, Record, Synonyms
    from clipcls.shards import Parts, Plan
    from clipcls.sinks import Format as Written
    from clipcls.sinks import ResultSink, RunInfo
    from clipcls.sinks.rows import PartFormat
    from clipcls.sources import ImageSource
    from clipcls.video import Pooling

_ANSWER, _INPUT, _MODEL, _OUTPUT = "Answer", "Images", "Model", "Output"


def classify(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Images, folders, globs, tables, tar shards, addresses; @FILE or - lists paths."
        ),
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
    null: Null = False,
    image_column: ImageColumn = None,
    include: Include = None,
    exclude: Exclude = None,
    limit: Limit = None,
    max_pixels: MaxPixels = None,
    time_limit: TimeLimit = None,
    fps: Fps = None,
    scenes: Scenes = False,
    video: Annotated[
        str, typer.Option(help="A row each of its frames, or one by their mean or max.", rich_help_panel=_ANSWER)
    ] = "frames",
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    strict_language: Annotated[
        bool,
        typer.Option("--strict-language", help="Labels the model cannot read are an error.", rich_help_panel=_MODEL),
    ] = False,
    cache: Cache = True,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            path_type=str,
            help="A .csv or .jsonl file; or a folder of Parquet, with / at its end.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", help="table, csv, jsonl or parquet.", rich_help_panel=_OUTPUT),
    ] = None,
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=_OUTPUT)
    ] = False,
    resume: Resume = False,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
    shard_size: ShardSize = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank labels for every image.

    clipcls classify ./imgs --labels 大象,冰箱,蚂蚁
    """
    from clipcls.settings import Settings
    from clipcls.sinks import open_sink
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
    target = None if output is None else Path(output)
    doer = Doer(engine, address, actors, gpus_per_actor, shard_size).check()
    layout = _Layout(_format(format, target, excel, folder=is_folder(output)), top_k, all_scores, excel, unknown_label)
    rule = _Rule(threshold, margin, groups)
    if unknown_label and not (threshold or margin or background or multi_label):
        raise UsageError("--unknown-label needs something to be unsure by: --threshold, --margin or --background")
    cut = in_shards(target, layout.format, doer)
    _check_output(target, layout.format, cut=cut, overwrite=overwrite, resume=resume)
    selection: dict[str, Any] = {
        "recursive": recursive,
        "include": include or [],
        "exclude": exclude or [],
        "limit": limit,
        **({"image_column": image_column} if image_column else {}),
    }
    found = ImageSource(paths, null_separated=null, videos=sampling(fps, scenes=scenes), whole=cut, **selection)
    pooling = _pooling(video, groups=groups)
    sidecars = _sidecars(xmp_name) if write_xmp else None
    extras = {"fps": fps, "scenes": scenes, "video": pooling, "write_xmp": sidecars}
    selection |= {name: value for name, value in extras.items() if value}
    if cut and (pooling or sidecars or show):
        raise UsageError("--video, --write-xmp and --show do not go with a folder of results or with --engine ray")
    images = images_of(found, paths, resume=resume and cut)
    tally = Tally()
    with open_classifier(doer.here(settings), cache) as classifier, quiet_pipe():
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
        if cut and target:
            run = replace(run, shard_size=doer.images_a_shard)
            work = Work(target, run, partial(_parts, answering), answering, answer, overwrite, resume)
            failed = do(work, doer, classifier, settings, found, images, quiet=quiet)
            raise typer.Exit(InputError.exit_code if failed else 0)
        for_person = told if sys.stdout.isatty() else str
        with (
            progress_bar(tally, found.count, hidden=quiet) as rows,
            _dressed(
                open_sink(run, target, rows, overwrite=overwrite, resume=resume, told=for_person),
                *(answering, sidecars),
                show=show,
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

    format: Written
    top_k: int
    all_scores: bool
    excel: bool
    unknown_label: str


class _Rule(NamedTuple):
    """The options that decide when a label is the answer."""

    threshold: float | None
    margin: float
    groups: bool


def _check_output(output: Path | None, form: str, *, cut: bool, overwrite: bool, resume: bool) -> None:
    """Refuse what could not be written, before any work is done."""
    if cut and output:
        from clipcls.shards import check_parts

        check_parts(output, folder=form == "parquet", overwrite=overwrite, resume=resume)
    else:
        from clipcls.sinks import check_output

        check_output(output, overwrite=overwrite, resume=resume)


def _parts(head: Head, plan: Plan) -> Parts:
    """What writes the answers."""
    from clipcls.sinks.parts import ParquetRecords, TextParts

    run = plan.run
    if run.format == "parquet":
        return ParquetRecords(plan.output, run.fingerprint, plan.columns, run.layout, head.digest)
    return TextParts(plan.output, cast("PartFormat", run.format), run.layout)


def _format(asked: str | None, output: Path | None, excel: bool, *, folder: bool) -> Written:
    from clipcls.sinks import Format, choose_format

    if folder:
        if asked not in (None, "parquet"):
            raise UsageError(f"a folder holds parquet; for {asked} name a file with --output")
        asked = "parquet"
    if asked is None and output is None and not sys.stdout.isatty():
        asked = "csv"
    if asked is not None and asked not in get_args(Format):
        raise UsageError(f"unknown format {asked!r}: use {', '.join(get_args(Format))}")
    chosen = choose_format(cast("Written | None", asked), output)
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
    return RunInfo.of(
        info,
        versions=versions() if with_versions else {},
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
