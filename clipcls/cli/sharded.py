"""A run that is cut into shards, for a command: by this process or by Ray, with a bar meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clipcls.cli.answers import at_least_one, left_out
from clipcls.cli.common import say
from clipcls.cli.progress import Tally, long_progress
from clipcls.errors import UsageError

if TYPE_CHECKING:
    from clipcls.answer import Answer
    from clipcls.classifier import Classifier
    from clipcls.engines.ray import Pool
    from clipcls.heads import Head
    from clipcls.records import ImageRef
    from clipcls.settings import Settings
    from clipcls.shards import Parts, Plan
    from clipcls.sinks import RunInfo
    from clipcls.sources import ImageSource

ENGINES = ("local", "ray")


class Doer(NamedTuple):
    """The options on who does the work."""

    name: str
    address: str | None
    actors: int | None
    gpus_per_actor: float | None
    shard_size: int | None

    @property
    def images_a_shard(self) -> int:
        """As asked for, or by default."""
        from clipcls.shards import SHARD_SIZE

        return self.shard_size or SHARD_SIZE

    @property
    def pool(self) -> Pool:
        """What is asked of Ray."""
        from clipcls.engines.ray import Pool

        return Pool(self.address, self.actors, self.gpus_per_actor)

    def engine(self) -> AbstractContextManager[object]:
        """What must be there for as long as shards are done."""
        if self.name == "local":
            return nullcontext()
        from clipcls.engines.ray import connected

        return connected(self.pool)

    def here(self, settings: Settings) -> Settings:
        """The settings for this process, which may lack the graphics cards that it has others use."""
        return replace(settings, device="auto") if self.name == "ray" else settings

    def check(self) -> Doer:
        """The same.

        Raises:
            UsageError: the options contradict each other.
        """
        if self.name not in ENGINES:
            raise UsageError(f"unknown engine {self.name!r}: use {' or '.join(ENGINES)}")
        if self.name == "local" and (self.address or self.actors or self.gpus_per_actor is not None):
            raise UsageError("--address, --actors and --gpus-per-actor are for --engine ray")
        return self


class Work(NamedTuple):
    """What is to be done, whoever does it."""

    output: Path
    run: RunInfo
    parts: Callable[[Plan], Parts]
    head: Head | None = None
    answer: Answer | None = None
    """How the head answers; None writes embeddings."""
    overwrite: bool = False
    resume: bool = False


def in_shards(output: Path | None, form: str, doer: Doer) -> bool:
    """Whether a run is cut into shards: for a folder, by Ray, or because what is there of an earlier one is."""
    from clipcls.sinks.parts import arrow, has_plan

    if output is None and doer.name == "ray":
        raise UsageError("--engine ray writes files: name one, or a folder, with --output")
    if form == "parquet":
        arrow()  # refuses before any work
    cut = output is not None and (has_plan(output) or form == "parquet" or doer.name == "ray")
    if doer.shard_size and not cut:
        raise UsageError("--shard-size is for results in a folder, or for --engine ray")
    return cut


def is_folder(output: str | None) -> bool:
    """Whether a path is one of a folder as it is typed."""
    return output is not None and output.endswith(("/", os.sep))


def images_of(found: ImageSource, paths: list[str], *, resume: bool) -> Iterator[ImageRef]:
    """The images, once it is known that there are any; for a run that goes on, which has a plan, only if it must be.

    Raises:
        InputError: there are none.
    """
    return _later(found, paths) if resume else at_least_one(found, paths)


def _later(found: ImageSource, paths: list[str]) -> Iterator[ImageRef]:
    yield from at_least_one(found, paths)


def do(
    work: Work,
    doer: Doer,
    classifier: Classifier,
    settings: Settings,
    found: ImageSource,
    images: Iterable[ImageRef],
    *,
    quiet: bool,
) -> int:
    """Do what is missing, and tell it in a line; how many images of the whole run could not be read."""
    from clipcls.shards import opened

    options = {"overwrite": work.overwrite, "resume": work.resume}
    with opened(work.output, work.run, lambda: images, engine=doer.engine(), **options) as plan:
        if plan is None:
            if not quiet:
                say("nothing to do: the results are complete")
            return _failed_then(work.output)
        parts, tally = work.parts(plan), Tally()
        before = [parts.done(number) for number in plan.done()]
        images_before = sum(done.images for done in before)
        with _told_when_cut_off(plan, tally, quiet=quiet):
            with long_progress(tally, plan.images - images_before, hidden=quiet):
                if doer.name == "ray":
                    _by_ray(plan, parts, work, doer, classifier, settings, tally)
                else:
                    _here(plan, parts, work, classifier, tally)
            failed = tally.failed + sum(done.failed for done in before)
            plan.finish(failed)
    if not quiet:
        say(f"{f'{images_before} done before; ' if before else ''}{tally.line()}{left_out(found)}")
    return failed


def _here(plan: Plan, parts: Parts, work: Work, classifier: Classifier, tally: Tally) -> None:
    from clipcls.shards import run_locally

    scored = partial(work.head.records, answer=work.answer) if work.head and work.answer else None
    tally.busy = classifier.embedder.busy
    run_locally(plan, classifier.embedder, scored, parts, tally.over)


def _by_ray(
    plan: Plan, parts: Parts, work: Work, doer: Doer, classifier: Classifier, settings: Settings, tally: Tally
) -> None:
    from clipcls.busy import Busy
    from clipcls.engines.ray import run
    from clipcls.engines.stages import Finished, Job, Model

    busy = tally.busy = Busy()

    def told(each: Finished) -> None:
        tally.add(each.done)
        for stage in ("decode", "encode", "score", "write"):
            busy.add(stage, getattr(each, stage))

    scored = partial(work.head.detached().records, answer=work.answer) if work.head and work.answer else None
    model = Model(
        settings.model,
        settings.device,
        classifier.info.precision,  # what auto means here, whatever it would mean there
        classifier.info.fingerprint,
        settings.batch_size or None,
        settings.traced_folder,
    )
    run(Job(plan, parts, model, settings.limits, scored), doer.pool, told)


def _failed_then(output: Path) -> int:
    """How many images an earlier run, which is whole, could not read."""
    from clipcls.sinks.runinfo import read_run

    earlier = read_run(output)
    return earlier.failed if earlier else 0


@contextmanager
def _told_when_cut_off(plan: Plan, tally: Tally, *, quiet: bool) -> Iterator[None]:
    """Tell how a run that does not reach its end goes on."""
    try:
        yield
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt) and not quiet:
            say(f"interrupted: {tally.line()}")
        say(f"the shards of {plan.output} that are done stay; the same command with --resume goes on")
        raise
