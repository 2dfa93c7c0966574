"""``clipcls embed``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcls.cli.answers import sampling
from clipcls.cli.common import STARTER_NOTICE, open_classifier, say, versions
from clipcls.cli.options import (
    Actors,
    Address,
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
    Limit,
    MaxPixels,
    Model,
    Null,
    Precision,
    Quiet,
    Recursive,
    Resume,
    Scenes,
    ShardSize,
    TimeLimit,
    Workers,
)
from clipcls.cli.sharded import Doer, Work, do, images_of
from clipcls.cli.transfers import download_bar
from clipcls.errors import InputError, UsageError

if TYPE_CHECKING:
    from clipcls.records import EncoderInfo
    from clipcls.shards import Parts, Plan
    from clipcls.sinks import RunInfo

_OUTPUT = "Output"
_LAYOUTS = ("parquet", "clip-retrieval")
_DTYPES = ("float32", "float16")


def embed(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Images, folders, globs, tables, tar shards, addresses; @FILE or - lists paths."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where the embeddings go.", rich_help_panel=_OUTPUT),
    ],
    layout: Annotated[
        str,
        typer.Option(
            help="parquet, or clip-retrieval for img_emb_N.npy beside metadata_N.parquet.", rich_help_panel=_OUTPUT
        ),
    ] = "parquet",
    dtype: Annotated[str, typer.Option(help="float32 or float16.", rich_help_panel=_OUTPUT)] = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=_OUTPUT)
    ] = False,
    resume: Resume = False,
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
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    cache: Cache = True,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
    shard_size: ShardSize = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the embedding of every image.

    They have unit length. Images that cannot be read have a row with the reason.

    clipcls embed ./imgs -o embeddings
    """
    from clipcls.settings import Settings
    from clipcls.shards import check_parts
    from clipcls.sinks.parts import arrow
    from clipcls.sources import ImageSource

    settings = Settings.load(
        {
            "model": model,
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            "workers": workers,
            "max_pixels": max_pixels,
            "time_limit": time_limit,
        }
    )
    doer = Doer(engine, address, actors, gpus_per_actor, shard_size).check()
    _check_choices(layout, dtype)
    arrow()  # refuses before any work
    check_parts(output, folder=True, overwrite=overwrite, resume=resume)
    selection: dict[str, Any] = {
        "recursive": recursive,
        "include": include or [],
        "exclude": exclude or [],
        "limit": limit,
        **({"image_column": image_column} if image_column else {}),
    }
    found = ImageSource(paths, null_separated=null, videos=sampling(fps, scenes=scenes), whole=True, **selection)
    selection |= {name: value for name, value in {"fps": fps, "scenes": scenes}.items() if value}
    images = images_of(found, paths, resume=resume)
    with open_classifier(doer.here(settings), cache) as classifier:
        with download_bar():
            info = classifier.info
        if classifier.is_starter and not quiet:
            say(STARTER_NOTICE)
        run = _run_info(info, layout, dtype, paths, selection, doer.images_a_shard)
        work = Work(output, run, partial(_parts, info), overwrite=overwrite, resume=resume)
        failed = do(work, doer, classifier, settings, found, images, quiet=quiet)
    raise typer.Exit(InputError.exit_code if failed else 0)


def _check_choices(layout: str, dtype: str) -> None:
    if layout not in _LAYOUTS:
        raise UsageError(f"unknown --layout {layout!r}: use {' or '.join(_LAYOUTS)}")
    if dtype not in _DTYPES:
        raise UsageError(f"unknown --dtype {dtype!r}: use {' or '.join(_DTYPES)}")


def _run_info(
    info: EncoderInfo, layout: str, dtype: str, paths: list[str], selection: dict[str, Any], shard_size: int
) -> RunInfo:
    from clipcls.sinks import RunInfo

    return RunInfo.of(
        info,
        versions=versions(),
        labels=(),
        prompts=(),
        format="clip-retrieval" if layout == "clip-retrieval" else "parquet",
        vectors=dtype,
        shard_size=shard_size,
        base=os.getcwd(),
        paths=tuple(paths),
        selection=selection,
    )


def _parts(info: EncoderInfo, plan: Plan) -> Parts:
    """What writes the embeddings."""
    from clipcls.sinks.parts import NpyVectors, ParquetVectors

    kind = NpyVectors if plan.run.format == "clip-retrieval" else ParquetVectors
    return kind(plan.output, info.fingerprint, plan.columns, dim=info.dim, dtype=plan.run.vectors)
