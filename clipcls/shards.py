"""A run cut into shards: which images each holds, which are done, and how a local run does those that are missing.

The plan of a run whose results go to ``OUT`` lies in ``OUT.plan`` until the run is whole; ``OUT.run.json`` tells of it
from then on. Each shard's results are one part, which is there whole or not at all.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from clipcls.errors import OutputError
from clipcls.pipeline import Embedded, Embedder
from clipcls.portable import common, kind, packed, unpacked
from clipcls.records import Done, Failure, ImageRef, Record, Shard
from clipcls.sinks.cells import printable
from clipcls.sinks.durable import drafted
from clipcls.sinks.output import check_not_a_list, check_output, check_place, check_same, claim, partial_path, told
from clipcls.sinks.parts import (
    LARGEST_NUMBER,
    Parts,
    has_plan,
    joined,
    own_files,
    plan_file,
    plan_files,
    plan_folder,
    written_parts,
)
from clipcls.sinks.runinfo import RunInfo, read_run, run_path, timestamp, write_run

__all__ = ["SHARD_SIZE", "Done", "Parts", "Plan", "Result", "Shard", "check_parts", "opened", "run_locally"]

Result = Embedded | Record
"""What a shard's part is written from, one for each of its images."""

SHARD_SIZE = 1000
"""Images a shard, where nothing else is asked for."""

_WORD = struct.Struct("<Q")
_FAST = 1
"""How hard zlib tries: paths that follow each other share most of their text."""


@dataclass(frozen=True)
class Plan:
    """A run's shards, on disk; picklable, for processes that see the same disk."""

    output: Path
    """The file or folder that the results go to."""
    run: RunInfo
    """What was asked for."""
    images: int
    """In all shards."""
    shards: int
    columns: dict[str, str]
    """Names of what the images carry along, each with the type of its values, so that all parts have one schema:
    bool, int, float or str."""

    @classmethod
    def make(cls, output: Path, run: RunInfo, refs: Iterable[ImageRef], size: int) -> Plan:
        """Writes the plan of a new run; no more than a shard is held in memory.

        Args:
            output: see ``Plan.output``.
            run: what was asked for.
            refs: the images.
            size: how many of them a shard has.

        Raises:
            OutputError: it cannot be written, or there are too many shards.
        """
        folder = plan_folder(output)
        folder.mkdir(exist_ok=True)
        columns: dict[str, str] = {}
        images = shards = end = 0
        with (
            drafted(folder / "shards", folder) as blocks,
            drafted(folder / "index", folder) as ends,
            blocks.open("wb") as blocks_file,
            ends.open("wb") as ends_file,
        ):
            for some in _cut(refs, size):
                if shards > LARGEST_NUMBER:
                    raise OutputError(f"{size} images a shard make more than a million shards: raise --shard-size")
                listed = list(map(packed, some))
                for _, _, _, _, *extra in listed:
                    _widen(columns, *extra)
                end += blocks_file.write(zlib.compress(json.dumps(listed).encode(), _FAST))
                ends_file.write(_WORD.pack(end))
                images, shards = images + len(some), shards + 1
        columns = {name: of or "str" for name, of in columns.items()}
        with drafted(folder / "plan.json", folder) as draft:
            draft.write_text(json.dumps({"images": images, "shards": shards, "columns": columns}), "utf-8")
        write_run(plan_file(output), run)  # last, since it says that there is a plan
        return cls(output, run, images, shards, columns)

    @classmethod
    def open(cls, output: Path) -> Plan | None:
        """The plan of a run that was begun and is not whole; None where there is none.

        Raises:
            OutputError: it is damaged.
            OSError: it cannot be read.
        """
        run = read_run(plan_file(output))
        if run is None:
            return None
        with _damaged(output):
            data = json.loads((plan_folder(output) / "plan.json").read_text("utf-8"))
            return cls(output, run, int(data["images"]), int(data["shards"]), dict(data["columns"]))

    def __len__(self) -> int:
        return self.shards

    def shard(self, number: int) -> Shard:
        """One shard, read from disk.

        Raises:
            OutputError: the plan is damaged.
        """
        with _damaged(self.output):
            with (plan_folder(self.output) / "index").open("rb") as index:
                index.seek(max(0, number - 1) * _WORD.size)
                ends = index.read(_WORD.size * (2 if number else 1))
            start, end = (0, *(found for (found,) in _WORD.iter_unpack(ends)))[-2:]
            with (plan_folder(self.output) / "shards").open("rb") as blocks:
                blocks.seek(start)
                listed = json.loads(zlib.decompress(blocks.read(end - start)))
            return Shard(number, tuple(map(unpacked, listed)))

    def done(self) -> list[int]:
        """The numbers of the shards that have a part, ascending."""
        return sorted(written_parts(self.output, self.run.format) & set(range(self.shards)))

    def todo(self) -> list[int]:
        """The numbers of the shards without a part, ascending."""
        return sorted(set(range(self.shards)) - written_parts(self.output, self.run.format))

    def finish(self, failed: int = 0) -> None:
        """The run is whole: the run file says so, and what only a run that goes on needs is removed.

        Args:
            failed: how many of the images could not be read.

        Raises:
            OutputError: a shard is missing, or a file cannot be written.
        """
        if missing := self.todo():
            raise OutputError(
                f"{printable(str(self.output))}: {len(missing)} shards are missing; "
                "the same command with --resume goes on"
            )
        with told(self.output, plan_folder(self.output)):
            if not _is_folder(self.run):
                self._refuse_to_replace()
            whole = replace(self.run, complete=True, finished=timestamp(), images=self.images, failed=failed)
            rows: AbstractContextManager[None] = nullcontext()
            if self.run.format in ("csv", "jsonl"):
                rows = joined(self.output, self.run.format, self.run.layout, self.shards)
            with rows:  # a file that they replace keeps its own run file until then
                write_run(self.output, whole)
            _remove_plan(self.output)

    def _refuse_to_replace(self) -> None:
        if self.run.overwrite or not os.path.lexists(self.output):
            return
        there = read_run(self.output)
        if there is None or there.created != self.run.created:  # else it is this run's, cut off in its last moment
            raise OutputError(
                f"{printable(str(self.output))} came after the run whose rows are in "
                f"{printable(str(plan_folder(self.output)))}: move it away, then --resume"
            )


def check_parts(output: Path, *, folder: bool, overwrite: bool = False, resume: bool = False) -> None:
    """Refuses what could not be written, or would lose what an earlier run made, before any work is done.

    Args:
        output: the folder, or else the file, that the results go to.
        folder: which of the two it is.
        overwrite: whether what is there may go.
        resume: whether to go on with it.

    Raises:
        UsageError: both to overwrite and to resume was asked for.
        OutputError: it cannot be written to, or there is something that must not be lost.
    """
    if overwrite and resume:
        check_output(None, overwrite=True, resume=True)
    name, plan = printable(str(output)), plan_folder(output)
    with told(output, plan):
        if not (overwrite or resume) and has_plan(output):
            raise OutputError(
                f"{printable(str(plan))} holds the shards of a run that has not finished: "
                "--resume goes on with it, --overwrite starts over"
            )
        if not has_plan(output) and ((os.path.lexists(plan) and not plan.is_dir()) or plan_files(output)[1]):
            raise OutputError(f"{printable(str(plan))} is in the way and no run's: name other results, or move it away")
        if not folder:
            check_output(output, overwrite=overwrite, resume=resume)
            partial = partial_path(output)
            if resume and partial.exists():
                raise OutputError(
                    f"{printable(str(partial))} holds the rows of a run without shards: "
                    "--resume with --engine local goes on with it, --overwrite starts over"
                )
            return
        check_place(output)
        if os.path.lexists(output) and not output.is_dir():
            raise OutputError(f"{name} is a file; name a folder, which need not exist")
        ours, others = own_files(output)
        if others:
            raise OutputError(f"{name} holds {printable(others[0].name)}, which no such run wrote: name another folder")
        if ours and not (overwrite or resume):
            raise OutputError(f"{name} holds results: --overwrite replaces them, --resume goes on with a cut-off run")


@contextmanager
def opened(
    output: Path,
    run: RunInfo,
    images: Callable[[], Iterable[ImageRef]],
    *,
    overwrite: bool = False,
    resume: bool = False,
    engine: AbstractContextManager[object] = nullcontext(),  # noqa: B008  # it holds nothing
) -> Iterator[Plan | None]:
    """The plan of a run, which no other process then works on; None where an earlier run is whole already.

    Args:
        output: the folder or file that the results go to.
        run: what is asked for; its format says what is written.
        images: gives the images, where there is no plan yet.
        overwrite: whether what is there may go.
        resume: whether to go on with it.
        engine: what does the shards; entered once nothing else is in the way, and before anything is replaced.

    Raises:
        UsageError: both to overwrite and to resume was asked for.
        OutputError: it cannot be written, another run is at it, or the one to go on with was another one.
    """
    folder = _is_folder(run)
    check_parts(output, folder=folder, overwrite=overwrite, resume=resume)
    with told(output, plan_folder(output)):
        plan_folder(output).mkdir(exist_ok=True)
        place = plan_folder(output) / "lock"
        held = place.open("w")
    with held:
        with told(output, plan_folder(output)):
            claim(output, held, place)
        try:
            with told(output, plan_folder(output)):
                check_parts(output, folder=folder, overwrite=overwrite, resume=resume)  # another run may have ended
                plan = None if overwrite else Plan.open(output)
                if plan:
                    check_same(output, plan.run, run)
                complete = resume and not plan and _is_complete(output, run)
            if complete:
                yield None
                return
            with engine:
                with told(output, plan_folder(output)):
                    if overwrite:
                        _remove_results(output, folder=folder)
                    if folder:
                        _make_folder(output)
                    for path in plan_files(output)[0]:
                        if path.name.startswith("draft-") or (plan is None and path.name != "lock"):
                            path.unlink(missing_ok=True)  # a run that was killed left it
                    if plan is None:
                        plan = Plan.make(output, replace(run, overwrite=overwrite), images(), run.shard_size)
                yield plan
        finally:
            if not has_plan(output):  # it did not come to one, or is through
                _remove_plan(output)


def run_locally(
    plan: Plan,
    embedder: Embedder,
    scored: Callable[[Sequence[Embedded | Failure]], Iterable[Record]] | None,
    parts: Parts,
    progress: Callable[[Iterable[Result]], Iterable[Result]],
) -> None:
    """Do the shards that are missing, as one stream of images, and write each when it is whole.

    Args:
        plan: the shards.
        embedder: the model and its store.
        scored: turns embeddings into records; None writes the embeddings.
        parts: where they go.
        progress: sees each result as it comes, and hands it on.

    Raises:
        ModelError: the model cannot be loaded.
        DeviceError: the device is missing, or its memory too small for one image.
        OutputError: a part cannot be written.
    """
    begun: deque[Shard] = deque()

    def refs() -> Iterator[ImageRef]:
        for number in plan.todo():
            begun.append(plan.shard(number))
            yield from begun[-1].refs

    def answered(block: Sequence[Embedded | Failure]) -> list[Result]:
        if not scored:
            return list(block)
        with embedder.busy.at("score"):
            return list(scored(block))

    results = itertools.chain.from_iterable(map(answered, embedder.images(refs())))
    whole: list[Result] = []
    for result in progress(results):
        whole.append(result)
        if len(whole) == len(begun[0].refs):
            with embedder.busy.at("write"):
                parts.write(begun.popleft(), whole)
            whole = []


def _cut(refs: Iterable[ImageRef], size: int) -> Iterator[list[ImageRef]]:
    waiting = iter(refs)
    while some := list(itertools.islice(waiting, size)):
        yield some


def _widen(columns: dict[str, str], extra: dict[str, object] | None = None) -> None:
    """Have the columns hold what one more image carries along."""
    for name, value in (extra or {}).items():
        columns[name] = common(columns.get(name, ""), "" if value is None else kind(value))


def _is_folder(run: RunInfo) -> bool:
    return run.format not in ("csv", "jsonl")


def _is_complete(output: Path, run: RunInfo) -> bool:
    """Whether there is nothing left of a run that is to be resumed.

    Raises:
        OutputError: the results are another run's, or nobody's.
    """
    earlier = read_run(output)
    there = own_files(output)[0] if _is_folder(run) else output.exists()
    if not there and not (earlier and earlier.complete and earlier.images == 0):
        return False
    if earlier is None or not earlier.complete:
        raise OutputError(f"nothing tells which run {printable(str(output))} is from; --overwrite starts over")
    check_same(output, earlier, run)
    check_not_a_list(output, run)
    if _is_folder(run) and len(written_parts(output, run.format)) != math.ceil(earlier.images / run.shard_size):
        raise OutputError(f"{printable(str(output))} was complete and lacks parts now; --overwrite starts over")
    return True


def _make_folder(output: Path) -> None:
    output.mkdir(exist_ok=True)
    if output.stat().st_dev != plan_folder(output).stat().st_dev:  # nothing moves from one disk to another at once
        raise OutputError(f"{printable(str(output))} is a disk of its own: name a folder in it")


def _remove_results(output: Path, *, folder: bool) -> None:
    """What an earlier run left; a file stays until its successor is whole."""
    run_path(plan_file(output)).unlink(missing_ok=True)
    for path in plan_files(output)[0]:
        if path.name != "lock":
            path.unlink()
    if not folder:
        for path in (partial_path(output), run_path(partial_path(output))):
            path.unlink(missing_ok=True)
        return
    run_path(output).unlink(missing_ok=True)
    for path in own_files(output)[0]:
        path.unlink()
        if path.parent != output and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _remove_plan(output: Path) -> None:
    run_path(plan_file(output)).unlink(missing_ok=True)
    # What is left does no harm: the lock stays where the system removes no open file.
    for path in plan_files(output)[0]:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        plan_folder(output).rmdir()


@contextmanager
def _damaged(output: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, zlib.error, struct.error, FileNotFoundError) as exc:
        raise OutputError(
            f"{printable(str(plan_folder(output)))} is damaged or from another version of clipcls; "
            "--overwrite starts over"
        ) from exc
