"""Where the results of a run that is cut into shards go: one part a shard, which is there whole or not at all."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipcls.errors import OutputError, UsageError
from clipcls.portable import as_kind, plain
from clipcls.records import Done, Failure, ImageRef, Prediction, Record, Score, Shard
from clipcls.sinks.cells import printable, well_formed
from clipcls.sinks.durable import drafted
from clipcls.sinks.rows import Layout, PartFormat, rows_for, status
from clipcls.sinks.runinfo import run_path

if TYPE_CHECKING:
    import pyarrow as pa

    from clipcls.pipeline import Embedded

EXTRA = "clipcls[tables]"

LARGEST_NUMBER = 999_999
"""So that names in the order of the alphabet are in the order of the shards."""
_PARTS = {
    "parquet": ("", "part-", ".parquet"),
    "clip-retrieval": ("metadata", "metadata_", ".parquet"),
    "csv": (".plan", "part-", ".csv"),
    "jsonl": (".plan", "part-", ".jsonl"),
}
"""The folder (below the output, or behind its name), beginning and end of the file that is written last of a shard."""
_EMBEDDINGS, _FAILED = "img_emb", "failed"
_NONE_READ = (_FAILED, "none_read_", ".parquet")
"""Of a shard without any embedding: embedding_reader leaves empty arrays out, but not the metadata beside them."""
_OF_A_PLAN = re.compile(
    r"lock|index|shards|plan\.json|plan\.run\.json(\.partial)?|clipcls-.*\.partial|part-\d{6}\.(csv|jsonl)|draft-.*"
)
_COUNTS = b"clipcls"
"""Where a Parquet file's own notes tell what is in it."""


def plan_folder(output: Path) -> Path:
    """Where all that lies that a run needs only until it is whole.

    Raises:
        UsageError: nothing can lie beside the output.
    """
    if not output.name:
        raise UsageError(f"{output} has no name to put a plan beside: name a file or a folder in it")
    return output.with_name(output.name + ".plan")


def plan_file(output: Path) -> Path:
    """What the run file of a plan is named after; it is there when there is a plan."""
    return plan_folder(output) / "plan"


def has_plan(output: Path) -> bool:
    """Whether a run was begun that is not whole."""
    return run_path(plan_file(output)).exists()


def part_path(output: Path, form: str, number: int) -> Path:
    """The file that is there when a shard is done."""
    folder, begin, end = _PARTS[form]
    return _folder(output, folder) / f"{begin}{number:06d}{end}"


def written_parts(output: Path, form: str) -> set[int]:
    """The numbers of the shards that are done."""
    if form == "clip-retrieval":
        return _numbers(output, _PARTS[form]) | _numbers(output, _NONE_READ)
    return _numbers(output, _PARTS[form])


def _numbers(output: Path, part: tuple[str, str, str]) -> set[int]:
    folder, begin, end = part
    name = re.compile(f"{re.escape(begin)}([0-9]{{6}}){re.escape(end)}")
    try:
        found = [name.fullmatch(entry) for entry in os.listdir(_folder(output, folder))]
    except FileNotFoundError:
        return set()
    return {int(match[1]) for match in found if match}


def own_files(output: Path) -> tuple[list[Path], list[Path]]:
    """What is in a folder of results: the files that runs write, and what else there is."""
    ours, others = [], []
    patterns = {"": r"part-\d{6}\.parquet", "metadata": r"metadata_\d{6}\.parquet"}
    patterns |= {_EMBEDDINGS: r"img_emb_\d{6}\.npy", _FAILED: r"(failed|none_read)_\d{6}\.parquet"}
    for below, pattern in patterns.items():
        folder = output / below
        if (below and folder.is_symlink()) or not folder.is_dir():
            continue
        for path in folder.iterdir():
            if re.fullmatch(pattern, path.name):
                ours.append(path)
            elif below or path.name not in patterns or not path.is_dir():
                others.append(path)
    return ours, others


def plan_files(output: Path) -> tuple[list[Path], list[Path]]:
    """What is in the folder of a plan: the files that runs write, and what else there is."""
    found = list(plan_folder(output).iterdir()) if plan_folder(output).is_dir() else []
    ours = [path for path in found if _OF_A_PLAN.fullmatch(path.name)]
    return ours, [path for path in found if path not in ours]


def _folder(output: Path, below: str) -> Path:
    return plan_folder(output) if below == ".plan" else output / below


class Parts(ABC):
    """Writes the results of shards, one part each; picklable.

    Args:
        output: the file or folder that the results go to.
    """

    output: Path
    form: PartFormat

    def _part(self, number: int) -> Path:
        """The file that is there when a shard is done."""
        return part_path(self.output, self.form, number)

    @abstractmethod
    def _write(self, shard: Shard, results: Sequence[Any]) -> None: ...

    @abstractmethod
    def _counts(self, number: int) -> Mapping[str, int]: ...

    def write(self, shard: Shard, results: Sequence[Embedded | Record]) -> Done:
        """Writes one part, whole, in the place of an earlier one.

        Args:
            shard: whose results they are.
            results: one for each of its images, in their order.

        Raises:
            OutputError: it cannot be written.
        """
        if len(results) != len(shard.refs):
            raise ValueError(f"{len(results)} results of {len(shard.refs)} images")
        try:
            self._write(shard, results)
        except OSError as exc:
            raise OutputError(
                f"{printable(str(self.output))} cannot be written: {exc.strerror or exc}; "
                "the same command with --resume goes on"
            ) from exc
        return Done(shard.number, **_count(results), cached=sum(result.cached for result in results))

    def done(self, number: int) -> Done:
        """What the part of a shard that is done holds.

        Raises:
            OutputError: it cannot be read.
        """
        path = self._part(number)
        try:
            return Done(number, **self._counts(number))
        except (OSError, ValueError, KeyError, TypeError) as exc:  # pyarrow's errors are ValueErrors
            raise OutputError(
                f"{printable(str(path))} is damaged: delete it, and the same command with --resume writes it anew"
            ) from exc

    def _drafted(self, path: Path) -> Any:
        path.parent.mkdir(exist_ok=True)
        return drafted(path, plan_folder(self.output))


@dataclass(frozen=True)
class TextParts(Parts):
    """Rows of CSV or JSON Lines, which ``joined`` puts together."""

    output: Path
    form: PartFormat
    layout: Layout

    def _write(self, shard: Shard, results: Sequence[Record]) -> None:
        rows = rows_for(self.form, self.layout)
        with (
            self._drafted(self._part(shard.number)) as draft,
            draft.open("w", encoding="utf-8", newline="") as file,
        ):
            file.writelines(map(rows.row, results))

    def _counts(self, number: int) -> Mapping[str, int]:
        from clipcls.sinks.resume import read_written

        rows = rows_for(self.form, self.layout)
        found = read_written(self._part(number), rows, head="")
        return {"images": found.images, "failed": found.failed}


@contextmanager
def joined(output: Path, form: PartFormat, layout: Layout, shards: int) -> Iterator[None]:
    """The rows of all shards, on the disk as a run that is not cut into shards writes them; at the end they take
    the place of the file ``output``.

    Raises:
        OSError: it cannot be written.
    """
    import shutil

    with drafted(output, plan_folder(output)) as draft:
        with draft.open("wb") as file:
            file.write(rows_for(form, layout).head().encode())
            for number in range(shards):
                with part_path(output, form, number).open("rb") as part:
                    shutil.copyfileobj(part, file)
            file.flush()
            os.fsync(file.fileno())
        yield


@dataclass(frozen=True)
class _ParquetParts(Parts):
    output: Path
    fingerprint: str
    """Of the model."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of what the images carry along, each with the type of its values; see ``Plan.columns``."""

    form: PartFormat = field(default="parquet", init=False)

    def _counts(self, number: int) -> Mapping[str, int]:
        import pyarrow.parquet as pq

        notes = pq.read_metadata(self._part(number)).metadata or {}
        return {name: int(count) for name, count in json.loads(notes[_COUNTS]).items()}

    def _table(
        self, own: Mapping[str, tuple[pa.DataType, Sequence[Any]]], refs: Sequence[ImageRef], counts: Mapping[str, int]
    ) -> pa.Table:
        """A table of a run's own columns, and of what its images carry along; with a note of what it holds."""
        pa = arrow()
        types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}
        fields, arrays = [], []
        for name, (of, values) in own.items():
            fields.append(pa.field(name, of))
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, of))
        taken = set(own)
        for name, kind in self.columns.items():
            values = [_cell(as_kind(plain(ref.extra.get(name)), kind)) for ref in refs]
            free = _free(well_formed(name), taken)
            taken.add(free)
            fields.append(pa.field(free, types[kind]))
            arrays.append(pa.array(values, types[kind]))
        return pa.table(arrays, schema=pa.schema(fields, metadata={_COUNTS: json.dumps(counts)}))

    def _write_table(self, table: pa.Table, path: Path) -> None:
        import pyarrow.parquet as pq

        with self._drafted(path) as draft:
            # No two numbers of an embedding are equal: looking for that would take most of the time.
            pq.write_table(table, draft, compression="zstd", use_dictionary="embedding" not in table.column_names)


@dataclass(frozen=True)
class ParquetRecords(_ParquetParts):
    """Answers as Parquet; the columns are in the README."""

    layout: Layout = field(default_factory=lambda: Layout(()))
    prompts_digest: str = ""
    """Of labels, prompts and whatever else decides the scores."""

    def _write(self, shard: Shard, results: Sequence[Record]) -> None:
        pa = arrow()
        text, number = pa.string(), pa.float64()
        scores = pa.list_(pa.struct([("label", text), ("probability", number), ("cosine", number)]))
        tops = [result.top if isinstance(result, Prediction) else None for result in results]
        own: dict[str, tuple[Any, Sequence[Any]]] = {
            "path": (text, _texts(result.path for result in results)),
            "status": (text, [status(result) for result in results]),
            "label": (text, [self._label(result) for result in results]),
            "probability": (number, [top and top.probability for top in tops]),
            "cosine": (number, [top and top.cosine for top in tops]),
            "ranked": (scores, [_scores(getattr(result, "ranked", ())) for result in results]),
        }
        if self.layout.multi_label:
            own["labels"] = (pa.list_(text), [_texts(getattr(result, "labels", ())) for result in results])
        if self.layout.groups:
            groups = [getattr(result, "group", None) for result in results]
            own["group"] = (text, [group and well_formed(group.name) for group in groups])
            own["group_probability"] = (number, [group and group.probability for group in groups])
        if self.layout.all_scores:
            own["scores"] = (scores, [_scores(getattr(result, "all_scores", None) or ()) for result in results])
        own |= {
            "error": (text, [result.error and well_formed(result.error) for result in results]),
            "fingerprint": (text, [self.fingerprint] * len(results)),
            "prompts_digest": (text, [self.prompts_digest] * len(results)),
        }
        self._write_table(
            self._table(own, shard.refs, _count(results)), part_path(self.output, self.form, shard.number)
        )

    def _label(self, result: Record) -> str | None:
        if isinstance(result, Failure):
            return None
        answer = well_formed(self.layout.answer(result))
        return answer or (None if result.uncertain else "")


@dataclass(frozen=True)
class ParquetVectors(_ParquetParts):
    """Embeddings as Parquet, null where an image could not be read."""

    dim: int = 0
    """Length of an embedding."""
    dtype: str = "float32"
    """float32 or float16."""

    def _write(self, shard: Shard, results: Sequence[Embedded | Failure]) -> None:
        pa = arrow()
        missing = np.array([isinstance(result, Failure) for result in results])
        rows = np.zeros((len(results), self.dim), self.dtype)
        rows[~missing] = self._vectors(results)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.dim, mask=pa.array(missing))
        errors = [well_formed(result.error) if isinstance(result, Failure) else None for result in results]
        own = {
            "path": (pa.string(), _texts(result.path for result in results)),
            "status": (pa.string(), ["ok" if error is None else "error" for error in errors]),
            "embedding": (vectors.type, vectors),
            "error": (pa.string(), errors),
            "fingerprint": (pa.string(), [self.fingerprint] * len(results)),
        }
        self._write_table(
            self._table(own, shard.refs, _count(results)), part_path(self.output, self.form, shard.number)
        )

    def _vectors(self, results: Sequence[Embedded | Failure]) -> npt.NDArray[Any]:
        """The embeddings of the images that could be read: [n, D], unit rows."""
        vectors = [result.vector for result in results if not isinstance(result, Failure)]
        return np.array(vectors, self.dtype).reshape(-1, self.dim)


@dataclass(frozen=True)
class NpyVectors(ParquetVectors):
    """Embeddings as clip-retrieval and autofaiss read them: ``img_emb/img_emb_N.npy`` and, row by row beside it,
    ``metadata/metadata_N.parquet``; images that could not be read are in ``failed/failed_N.parquet``."""

    form: PartFormat = field(default="clip-retrieval", init=False)

    def _none_read(self, number: int) -> Path:
        folder, begin, end = _NONE_READ
        return self.output / folder / f"{begin}{number:06d}{end}"

    def _part(self, number: int) -> Path:
        whole = super()._part(number)
        return whole if whole.exists() else self._none_read(number)

    def _write(self, shard: Shard, results: Sequence[Embedded | Failure]) -> None:
        pa = arrow()
        pairs = list(zip(shard.refs, results, strict=True))
        failed = [(ref, result) for ref, result in pairs if isinstance(result, Failure)]
        if failed:
            refused = [well_formed(result.error) for _, result in failed]
            own = {"image_path": (pa.string(), _paths(failed)), "error": (pa.string(), refused)}
            self._write_table(
                self._table(own, [ref for ref, _ in failed], _count(results)),
                self._none_read(shard.number)
                if len(failed) == len(pairs)
                else self.output / _FAILED / f"failed_{shard.number:06d}.parquet",
            )
        if len(failed) == len(pairs):
            return
        with (
            self._drafted(self.output / _EMBEDDINGS / f"img_emb_{shard.number:06d}.npy") as draft,
            draft.open("wb") as file,  # numpy would add a suffix to a name
        ):
            np.save(file, self._vectors(results))
        read = [(ref, result) for ref, result in pairs if not isinstance(result, Failure)]
        # Last, since it says that the shard is done.
        self._write_table(
            self._table({"image_path": (pa.string(), _paths(read))}, [ref for ref, _ in read], _count(results)),
            part_path(self.output, self.form, shard.number),
        )


def arrow() -> Any:
    """pyarrow, which is optional.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as exc:
        raise UsageError(f'Parquet needs an optional package: pip install "{EXTRA}"') from exc
    return pyarrow


def _count(results: Sequence[Embedded | Record]) -> dict[str, int]:
    return {
        "images": len(results),
        "failed": sum(isinstance(result, Failure) for result in results),
        "uncertain": sum(isinstance(result, Prediction) and result.uncertain for result in results),
    }


def _scores(scores: Sequence[Score]) -> list[dict[str, Any]]:
    return [
        {"label": well_formed(score.label), "probability": score.probability, "cosine": score.cosine}
        for score in scores
    ]


def _paths(pairs: Sequence[tuple[ImageRef, Embedded | Failure]]) -> list[str]:
    return _texts(result.path for _, result in pairs)


def _texts(texts: Iterable[str]) -> list[str]:
    return list(map(well_formed, texts))


def _cell(value: Any) -> Any:
    return well_formed(value) if isinstance(value, str) else value


def _free(name: str, taken: Container[str]) -> str:
    """What something carried along is called where there is a column of that name."""
    while name in taken:
        name = f"source_{name}"
    return name
