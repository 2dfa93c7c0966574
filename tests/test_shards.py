"""Runs that are cut into shards: what is written, by whom it can be read, and how they go on."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import Terminal
from fakes import DIM, FakeDoor, picture

from clipcls.busy import Busy
from clipcls.classifier import Classifier
from clipcls.cli import progress
from clipcls.cli.progress import Tally
from clipcls.errors import OutputError
from clipcls.portable import packed, unpacked
from clipcls.records import Failure, ImageRef
from clipcls.shards import Plan, opened, run_locally
from clipcls.sinks import LabelInfo, RunInfo
from clipcls.sinks.parts import NpyVectors, ParquetVectors, Parts, TextParts
from clipcls.sinks.runinfo import read_run
from clipcls.sources import ImageSource

pytestmark = pytest.mark.usefixtures("here")

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
LABELS = ("--labels", ",".join(COLOURS))
PLAN = ("plan.json", "plan.run.json")


@pytest.fixture
def photos(fake: Callable[..., FakeDoor]) -> FakeDoor:
    """Ten pictures in three colours, and behind them two files that are none."""
    for at in range(10):
        colour = [*COLOURS.values()][at % 3]
        picture(Path("photos") / f"{at}.png", (*colour[:2], max(0, colour[2] - at)))
    for name in ("x.png", "y.png"):
        (Path("photos") / name).write_bytes(b"no picture")
    return fake()


def info(**options: Any) -> RunInfo:
    facts: dict[str, Any] = {
        **{"versions": {}, "model": "fake/one", "fingerprint": "oc1-fake", "precision": "fp32", "logit_scale": 20.0},
        **{"logit_bias": None, "activation": "softmax", "labels": (), "prompts": (), "format": "parquet"},
        **{"base": os.getcwd(), "paths": ("photos",), "vectors": "float32", "shard_size": 4},
        "selection": {"recursive": True, "include": [], "exclude": [], "limit": None},
    }
    return RunInfo(**facts | options)


def refs() -> list[ImageRef]:
    return list(ImageSource(["photos"]))


def vectors(plan: Plan) -> Parts:
    return ParquetVectors(plan.output, "oc1-fake", plan.columns, dim=DIM)


def embed(images: Iterable[ImageRef], output: Path = Path("out")) -> pd.DataFrame:
    """All rows of a run that writes embeddings."""
    with opened(output, info(), lambda: images) as plan, Classifier.load(cache=False) as classifier:
        assert plan
        run_locally(plan, classifier.embedder, None, vectors(plan), Tally().over)
        plan.finish()
    return pd.read_parquet(output)


# The plan


def test_a_plan_gives_back_what_it_was_made_of(photos: FakeDoor) -> None:
    odd = replace(refs()[0], id=os.fsdecode(b"caf\xe9.png"), extra={"caption": "一只猫", "width": 3})
    given = [*refs(), odd]
    plan = Plan.make(Path("out"), info(), given, 5)
    assert len(plan) == 3 and plan.images == 13 and plan.todo() == [0, 1, 2]
    for known in (plan, Plan.open(Path("out")), pickle.loads(pickle.dumps(plan))):
        assert known is not None and known.columns == {"caption": "str", "width": "int"}
        shards = [known.shard(number) for number in (2, 0, 1)]
        assert [len(shard.refs) for shard in shards] == [3, 5, 5]
        assert [ref for shard in (shards[1], shards[2], shards[0]) for ref in shard.refs] == given
        with shards[1].refs[0].open() as file:
            assert file.read() == Path("photos/0.png").read_bytes()
        assert pickle.loads(pickle.dumps(shards[0])) == shards[0]


def test_a_file_that_changed_since_is_not_taken_for_what_it_was(photos: FakeDoor) -> None:
    plan = Plan.make(Path("out"), info(), refs(), 5)
    before = plan.shard(0).refs
    picture(Path("photos/0.png"), (1, 2, 3), (40, 40))
    Path("photos/1.png").unlink()
    after = plan.shard(0).refs
    assert before[0].stat != after[0].stat == refs()[0].stat
    assert after[1].stat is None and after[2:] == before[2:]


def test_no_plan_calls_anything_but_what_opens_images() -> None:
    with pytest.raises(TypeError, match="no other process could call it"):
        packed(ImageRef("x", "/", None, partial(open, "x", "rb")))
    honest = packed(next(iter(ImageSource([__file__]))))
    for name in ("os:system", "clipcls.sources_evil:x", "clipcls.sources:os", "clipcls.sources:ImageSource"):
        with pytest.raises(ValueError, match=r"not a reference|opens no image"):
            unpacked([*honest[:3], {"call": name, "with": ["true"], "named": {"map": []}}])
    for opening in (None, "x", {"new": "clipcls.records:Failure", "named": {"map": [["path", "x"], ["error", "y"]]}}):
        with pytest.raises(ValueError, match="opens nothing"):
            unpacked([*honest[:3], opening])


def test_a_damaged_plan_is_told(photos: FakeDoor) -> None:
    plan = Plan.make(Path("out"), info(), refs(), 5)
    (Path("out.plan") / "shards").write_bytes(b"x" * 10_000)
    with pytest.raises(OutputError, match=r"^out\.plan is damaged"):
        plan.shard(1)


def kinds_of_sources() -> list[str]:
    """The ten pictures once more, in an archive, in a table, and in a folder with notes."""
    import io
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [Path("photos") / f"{at}.png" for at in range(10)]
    with tarfile.open("some.tar", "w") as archive:
        for path in files:
            archive.add(path, path.name)
            text = tarfile.TarInfo(f"{path.stem}.txt")
            text.size = len(path.stem)
            archive.addfile(text, io.BytesIO(path.stem.encode()))
    table = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in files], "width": [*range(10)]}
    pq.write_table(pa.table(table), "some.parquet")
    noted = Path("noted")
    noted.mkdir()
    for path in files:
        (noted / path.name).write_bytes(path.read_bytes())
    lines = [f"{path.name},note {path.stem}" for path in files]
    (noted / "metadata.csv").write_text("\n".join(["file_name,note", *lines]) + "\n")
    return ["some.tar", "some.parquet", "noted"]


def test_any_source_is_gone_on_with_in_another_process(photos: FakeDoor) -> None:
    kinds = kinds_of_sources()
    given = list(ImageSource(kinds))
    assert len(given) == 30
    plan = Plan.make(Path("out"), info(), given, 10)
    assert plan.columns == {"caption": "str", "width": "int", "image_path": "str", "note": "str"}
    for number in range(3):
        shard = plan.shard(number)
        assert shard.refs == tuple(given[10 * number : 10 * number + 10])
        for ref, at in zip(shard.refs, range(10), strict=True):
            with ref.open() as file:
                assert file.read() == Path(f"photos/{at}.png").read_bytes()
    rows = embed(given, Path("rows"))
    assert [*rows["caption"][:10]] == [str(at) for at in range(10)] and rows["caption"][10:].isna().all()
    assert [*rows["width"][10:20]] == [*range(10)] and rows["note"][29] == "note 9"
    assert {*rows["status"]} == {"ok"}


def test_an_archive_that_changed_since_gives_no_other_picture(photos: FakeDoor) -> None:
    kinds_of_sources()
    plan = Plan.make(Path("out"), info(), ImageSource(["some.tar"]), 10)
    os.utime("some.tar", (1, 1))
    with pytest.raises(OSError, match="the archive has changed"):
        plan.shard(0).refs[3].open()


def test_frames_of_a_video_are_gone_on_with(tmp_path: Path) -> None:
    from test_video import film

    from clipcls.video import Sampling

    film(tmp_path / "clip.mp4", [*COLOURS.values()])
    given = list(ImageSource(["clip.mp4"], videos=Sampling()))
    shard = Plan.make(Path("out"), info(), given, 100).shard(0)
    assert shard.refs == tuple(given) and len(given) > 1
    for ref, other in zip(pickle.loads(pickle.dumps(shard)).refs, given, strict=True):
        assert ref.open().read() == other.open().read()


# What is written


def test_duckdb_pandas_and_polars_open_the_folder(photos: FakeDoor, clipcls: Terminal) -> None:
    told = clipcls("classify", "photos", *LABELS, "-k", "2", "-o", "out/", "--shard-size", "5", code=3)
    assert told == "" and "12 images, 2 failed" in clipcls.err
    clipcls("classify", "photos", *LABELS, "-k", "2", "-f", "csv", "-o", "local.csv", code=3)
    expected = pd.read_csv("local.csv", keep_default_na=False)
    assert sorted(path.name for path in Path().glob("out*")) == ["out", "out.run.json"]
    assert sorted(path.name for path in Path("out").iterdir()) == [f"part-00000{at}.parquet" for at in range(3)]
    found = {
        "duckdb": duckdb.sql("SELECT * FROM 'out/*.parquet' ORDER BY path").df(),
        "pandas": pd.read_parquet("out").sort_values("path"),
        "polars": pd.DataFrame(pl.read_parquet("out").sort("path").to_dicts()),
    }
    for rows in found.values():
        assert [*rows.columns] == [
            *("path", "status", "label", "probability", "cosine", "ranked"),
            *("error", "fingerprint", "prompts_digest"),
        ]
        for column in ("path", "status", "label", "error"):
            assert [value or "" for value in rows[column].replace({np.nan: ""})] == [*expected[column]]
        for column in ("probability", "cosine"):
            wanted = pd.to_numeric(expected[column], errors="coerce")
            np.testing.assert_allclose(rows[column].astype(float), wanted, atol=1e-6)
        assert [one["label"] for one in rows["ranked"].iloc[0]] == [expected["label"][0], expected["label_2"][0]]
        assert len(rows["ranked"].iloc[11]) == 0
        assert {*rows["fingerprint"]} == {"oc1-fake"} and len({*rows["prompts_digest"]}) == 1


def test_other_answers_have_their_columns(photos: FakeDoor, clipcls: Terminal) -> None:
    Path("labels.csv").write_text("name,group\nred,warm\ngreen,cold\nblue,cold\n")
    words = ("classify", "photos", "--labels-file", "labels.csv", "--groups", "--all-scores", "--margin", "1")
    clipcls(*words, "-f", "parquet", "-o", "out", code=3)
    row = pd.read_parquet("out").iloc[0]
    assert (row["status"], row["group"]) == ("uncertain", "warm") and pd.isna(row["label"])
    assert [score["label"] for score in row["scores"]] == ["red", "green", "blue"]
    clipcls("classify", "photos", *LABELS, "--multi-label", "--threshold", "0.5", "-o", "several/", code=3)
    assert "red" in [*pd.read_parquet("several").iloc[0]["labels"]]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_embeddings_are_those_of_the_model(photos: FakeDoor, clipcls: Terminal, dtype: str) -> None:
    clipcls("embed", "photos", "-o", "out", "--dtype", dtype, "--shard-size", "5", code=3)
    with Classifier.load() as classifier:
        expected = classifier.embed_images([f"photos/{at}.png" for at in range(10)])
    rows = pl.read_parquet("out")
    assert rows["embedding"].dtype == pl.Array({"float32": pl.Float32, "float16": pl.Float16}[dtype], DIM)
    assert rows["status"].to_list() == ["ok"] * 10 + ["error"] * 2
    assert rows["embedding"][10:].to_list() == [None, None] and all(rows["error"][10:].to_list())
    found = np.array(rows["embedding"][:10].to_list())
    np.testing.assert_array_equal(found.astype(dtype), expected.astype(dtype))
    assert duckdb.sql("SELECT count(embedding) FROM 'out/*.parquet'").fetchall() == [(10,)]
    assert len(pd.read_parquet("out")) == 12


def test_the_layout_of_clip_retrieval(photos: FakeDoor, clipcls: Terminal) -> None:
    words = ("embed", "photos", "-o", "out", "--layout", "clip-retrieval", "--dtype", "float16", "--shard-size", "5")
    clipcls(*words, code=3)
    names = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.*"))
    assert names == [
        "failed/none_read_000002.parquet",
        *(f"img_emb/img_emb_00000{at}.npy" for at in range(2)),
        *(f"metadata/metadata_00000{at}.parquet" for at in range(2)),
    ]
    arrays = [np.load(f"out/img_emb/img_emb_00000{at}.npy") for at in range(2)]
    assert [array.shape for array in arrays] == [(5, DIM), (5, DIM)]
    assert {array.dtype for array in arrays} == {np.dtype("float16")}
    metadata = pd.concat(pd.read_parquet(f"out/metadata/metadata_00000{at}.parquet") for at in range(2))
    assert [*metadata["image_path"]] == [f"photos/{at}.png" for at in range(10)]
    with Classifier.load() as classifier:
        expected = classifier.embed_images([*metadata["image_path"]])
    np.testing.assert_array_equal(np.concatenate(arrays), expected.astype("float16"))
    assert [*pd.read_parquet("out/failed")["image_path"]] == ["photos/x.png", "photos/y.png"]
    clipcls(*words, "--resume", code=3)
    assert "nothing to do" in clipcls.err
    Path("out/failed/none_read_000002.parquet").write_bytes(b"PAR1")
    with pytest.raises(OutputError, match=r"none_read_000002\.parquet is damaged: delete it"):
        NpyVectors(Path("out"), "oc1-fake", dim=DIM).done(2)


def test_what_images_carry_along_has_one_schema_in_all_parts(photos: FakeDoor) -> None:
    carried: list[dict[str, Any]] = [{} for _ in refs()]
    carried[0] = {"caption": "one", "size": 1, "mixed": 1, "path": "theirs", "nothing": None}
    carried[5] = {"size": 2.5, "mixed": "text", "tags": ["a", "b"], "huge": 1 << 70, "half": np.float32(0.5)}
    rows = embed(replace(ref, extra=extra) for ref, extra in zip(refs(), carried, strict=True))
    assert rows["caption"][0] == "one" and pd.isna(rows["caption"][5])
    assert (rows["size"][0], rows["size"][5]) == (1.0, 2.5)
    assert (rows["mixed"][0], rows["mixed"][5]) == ("1", "text")
    assert (rows["source_path"][0], rows["path"][0]) == ("theirs", "photos/0.png")
    assert (rows["tags"][5], rows["huge"][5]) == ('["a", "b"]', str(1 << 70))
    assert rows["nothing"].isna().all() and rows["half"][5] == 0.5
    assert len(pl.read_parquet("out")) == len(duckdb.sql("SELECT * FROM 'out/*.parquet'").fetchall()) == 12


def test_a_name_that_is_not_utf_8_has_a_row(photos: FakeDoor) -> None:
    odd = Path(os.fsdecode(b"photos/caf\xe9.png"))
    os.rename("photos/0.png", odd)
    assert "photos/caf\\xe9.png" in [*embed(refs())["path"]]


@pytest.mark.parametrize("form", [("csv", False), ("csv", True), ("jsonl", False)])
def test_rows_of_text_are_the_bytes_of_a_run_without_shards(
    photos: FakeDoor, clipcls: Terminal, form: tuple[Any, bool]
) -> None:
    name, excel = form
    words = ["classify", "photos", *LABELS, "-k", "2", "--all-scores", *(["--excel"] if excel else [])]
    clipcls(*words, "-o", f"local.{name}", code=3)
    facts = json.loads(Path(f"local.{name}.run.json").read_text())
    with Classifier.load() as classifier:
        head = classifier.zero_shot([*COLOURS])
        run = info(format=name, vectors="", shard_size=5, top_k=2, all_scores=True, excel=excel)
        run = replace(run, labels=tuple(label for label in map(labelled, facts["labels"])))
        with opened(Path(f"out.{name}"), run, refs) as plan:
            assert plan
            parts = TextParts(plan.output, name, run.layout)
            scored = partial(head.records, answer=head.answer(top_k=2, all_scores=True))
            run_locally(plan, classifier.embedder, scored, parts, Tally().over)
            assert [parts.done(number).failed for number in plan.done()] == [0, 0, 2]
            plan.finish(failed=2)
    assert Path(f"out.{name}").read_bytes() == Path(f"local.{name}").read_bytes()
    assert not Path(f"out.{name}.plan").exists()
    assert json.loads(Path(f"out.{name}.run.json").read_text())["failed"] == 2


def labelled(fact: dict[str, Any]) -> Any:
    from clipcls.sinks import LabelInfo

    return LabelInfo(**fact)


# Going on


def cut_off(after: int, output: str = "out") -> None:
    """A run of embeddings that ends after so many shards, whichever way."""
    with opened(Path(output), info(), refs) as plan, Classifier.load(cache=False) as classifier:
        assert plan
        results = [result for block in classifier.embedder.images(refs()) for result in block]
        for number in range(after):
            vectors(plan).write(plan.shard(number), results[4 * number : 4 * number + 4])


RESUMED = ("embed", "photos", "-o", "out", "--shard-size", "4", "--no-cache", "--resume")


def test_what_is_missing_is_done_and_only_that(photos: FakeDoor, clipcls: Terminal) -> None:
    expected = embed(refs(), Path("whole"))
    cut_off(2)
    times = [path.stat().st_mtime_ns for path in sorted(Path("out").iterdir())]
    (Path("out.plan") / "draft-of-a-killed-run").write_bytes(b"half")
    photos.encoder.image_batches.clear()
    clipcls(*RESUMED, code=3)
    assert "8 done before; 4 images, 2 failed" in clipcls.err
    assert sum(photos.encoder.image_batches) == 2
    assert [path.stat().st_mtime_ns for path in sorted(Path("out").iterdir())[:2]] == times
    pd.testing.assert_frame_equal(pd.read_parquet("out"), expected)
    assert not Path("out.plan").exists()
    photos.encoder.image_batches.clear()
    clipcls(*RESUMED, code=3)
    assert "nothing to do" in clipcls.err and photos.encoder.image_batches == []


def test_a_list_that_was_read_is_not_asked_for_again(
    photos: FakeDoor, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = ("embed", "-", "-o", "out", "--shard-size", "4", "--resume")
    with opened(Path("out"), info(paths=("-",)), refs) as plan:
        assert plan
    monkeypatch.setattr(sys, "stdin", None)
    clipcls(*listed, code=3)
    assert len(pd.read_parquet("out")) == 12
    clipcls(*listed, code=7)
    assert "for whatever list was read then" in clipcls.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--labels", "red,green"), "labels: red, green, blue then, red, green now"),
        ((*LABELS, "--shard-size", "7"), "shard size: 5 then, 7 now"),
        ((*LABELS, "-k", "2"), "top k: 1 then, 2 now"),
    ],
)
def test_another_run_is_not_gone_on_with(
    photos: FakeDoor, clipcls: Terminal, words: tuple[str, ...], reason: str
) -> None:
    first = ("classify", "photos", *LABELS, "-o", "out/", "--shard-size", "5")
    clipcls(*first, code=3)
    clipcls("classify", "photos", "-o", "out/", "--shard-size", "5", *words, "--resume", code=7)
    assert "the earlier run was another one" in clipcls.err and reason in clipcls.err
    clipcls("embed", "photos", "-o", "out", "--shard-size", "5", "--resume", code=7)
    assert "the earlier run was another one" in clipcls.err
    clipcls(*first, code=7)
    assert "out holds results: --overwrite replaces them" in clipcls.err
    clipcls("embed", "photos", "-o", "out", "--shard-size", "9", "--overwrite", code=3)
    assert [*pd.read_parquet("out").columns][2] == "embedding" and len([*Path("out").iterdir()]) == 2


def test_a_run_that_was_cut_off_is_not_lost_by_mistake(photos: FakeDoor, clipcls: Terminal) -> None:
    cut_off(1)
    clipcls(*RESUMED[:-1], code=7)
    assert "out.plan holds the shards of a run that has not finished: --resume goes on with it" in clipcls.err
    clipcls(*RESUMED[:-1], "--overwrite", code=3)
    assert len(pd.read_parquet("out")) == 12 and not Path("out.plan").exists()


def test_a_whole_run_that_lost_a_part_is_not_called_complete(photos: FakeDoor, clipcls: Terminal) -> None:
    clipcls(*RESUMED, code=3)
    Path("out/part-000001.parquet").unlink()
    clipcls(*RESUMED, code=7)
    assert "out was complete and lacks parts now" in clipcls.err


def test_a_damaged_part_is_told(photos: FakeDoor, clipcls: Terminal) -> None:
    cut_off(2)
    Path("out/part-000001.parquet").write_bytes(b"PAR1")
    clipcls(*RESUMED, code=7)
    assert "part-000001.parquet is damaged: delete it" in clipcls.err
    Path("out/part-000001.parquet").unlink()
    clipcls(*RESUMED, code=3)
    assert len(pd.read_parquet("out")) == 12


def test_two_runs_do_not_write_the_same_folder(photos: FakeDoor, clipcls: Terminal) -> None:
    with opened(Path("out"), info(), refs):
        clipcls(*RESUMED, code=7)
        assert "another run is writing out" in clipcls.err


def test_a_run_that_is_refused_leaves_the_plan_that_another_is_making(photos: FakeDoor) -> None:
    def slowly() -> Iterator[ImageRef]:
        with (
            pytest.raises(OutputError, match=r"^another run is writing out"),
            opened(Path("out"), info(), refs),
        ):
            pass
        yield from refs()

    assert len(embed(slowly())) == 12


def test_what_a_killed_run_left_is_no_part_of_the_next_one(photos: FakeDoor) -> None:
    Path("out.csv.plan").mkdir()
    for name in ("lock", "part-000000.csv", "plan.run.json.partial", "clipcls-1.partial", "draft-1"):
        Path("out.csv.plan", name).write_text("photos/0.png,ok,cat\n")
    with opened(Path("out.csv"), info(format="csv"), refs) as plan:
        assert plan and plan.todo() == [0, 1, 2]
        assert {path.name for path in Path("out.csv.plan").iterdir()} == {"lock", "index", "shards", *PLAN}


def test_until_it_is_replaced_a_file_of_shards_keeps_its_own_run_file(
    photos: FakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(overwrite: bool, **options: Any) -> None:
        facts = info(format="csv", labels=(LabelInfo("red", "red"),), **options)
        with opened(Path("out.csv"), facts, lambda: refs()[:4], overwrite=overwrite) as plan:
            assert plan
            parts = TextParts(plan.output, "csv", facts.layout)
            for number in plan.todo():
                parts.write(plan.shard(number), failures(4))
            plan.finish()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run(overwrite=False)
    before = [Path(name).read_bytes() for name in ("out.csv", "out.csv.run.json")]
    with monkeypatch.context() as disk:
        disk.setattr("shutil.copyfileobj", full)
        with pytest.raises(OutputError, match=r"No space left on device; --resume goes on with out\.csv\.plan"):
            run(overwrite=True, precision="bf16")
    assert [Path(name).read_bytes() for name in ("out.csv", "out.csv.run.json")] == before


def test_a_last_moment_that_was_cut_off_is_made_up_for(photos: FakeDoor, clipcls: Terminal) -> None:
    """Killed after the run file said that the run is whole, and before the plan was gone."""
    cut_off(3)
    facts = json.loads(Path("out.plan/plan.run.json").read_text()) | {"complete": True, "images": 12, "failed": 2}
    Path("out.run.json").write_text(json.dumps(facts))
    clipcls(*RESUMED, code=3)
    assert not Path("out.plan").exists() and len(pd.read_parquet("out")) == 12


def test_rows_of_text_go_on_whoever_began_them(photos: FakeDoor, clipcls: Terminal) -> None:
    """A plan that another engine has begun, which this one finishes."""
    words = ("classify", "photos", *LABELS, "-o", "out.csv")
    clipcls(*words, code=3)
    expected, facts = Path("out.csv").read_bytes(), json.loads(Path("out.csv.run.json").read_text())
    for name in ("out.csv", "out.csv.run.json"):
        Path(name).unlink()
    Path("out.csv.plan").mkdir()
    Path("out.csv.plan/plan.run.json").write_text(json.dumps(facts | {"shard_size": 5, "complete": False}))
    begun = read_run(Path("out.csv.plan/plan"))
    assert begun
    Plan.make(Path("out.csv"), begun, refs(), 5)
    clipcls(*words, code=7)
    assert "out.csv.plan holds the shards of a run that has not finished" in clipcls.err
    clipcls(*words, "--resume", "--shard-size", "5", code=3)
    assert Path("out.csv").read_bytes() == expected and not Path("out.csv.plan").exists()
    clipcls(*words, "--resume", code=3)
    assert "nothing to do" in clipcls.err
    clipcls(*words, "--resume", "--engine", "ray", "--shard-size", "5", code=3)
    assert "nothing to do" in clipcls.err
    Path("out.csv").rename("out.csv.partial")
    clipcls(*words, "--resume", "--engine", "ray", code=7)
    assert "out.csv.partial holds the rows of a run without shards" in clipcls.err


def test_a_file_that_came_since_is_not_replaced(photos: FakeDoor) -> None:
    with opened(Path("out.csv"), info(format="csv"), list) as plan:
        assert plan is not None and plan.todo() == []
        Path("out.csv").write_text("precious")
        with pytest.raises(OutputError, match=r"^out\.csv came after the run whose rows are in out\.csv\.plan"):
            plan.finish()
    assert Path("out.csv").read_text() == "precious"


def test_no_run_ends_while_shards_are_missing(photos: FakeDoor) -> None:
    plan = Plan.make(Path("out"), info(), refs(), 5)
    with pytest.raises(OutputError, match=r"^out: 3 shards are missing"):
        plan.finish()


def test_parts_of_nobody_are_not_gone_on_with(photos: FakeDoor, clipcls: Terminal) -> None:
    clipcls(*RESUMED, code=3)
    Path("out.run.json").unlink()
    clipcls(*RESUMED, code=7)
    assert "nothing tells which run out is from" in clipcls.err


def test_a_link_to_a_folder_is_that_folder(photos: FakeDoor, clipcls: Terminal) -> None:
    Path("there").mkdir()
    Path("there/.DS_Store").touch()
    Path("out").symlink_to("there")
    words = ("classify", "photos", *LABELS, "-o", "out/")
    clipcls(*words, code=7)
    assert "out holds .DS_Store, which no such run wrote" in clipcls.err
    Path("there/.DS_Store").unlink()
    clipcls(*words, code=3)
    clipcls(*words, "--top-k", "2", code=7)
    assert "out holds results" in clipcls.err
    clipcls(*words, "--top-k", "2", "--overwrite", code=3)
    assert len(pd.read_parquet("there").ranked[0]) == 2


def test_what_has_the_name_of_a_plan_is_left_alone(photos: FakeDoor, clipcls: Terminal) -> None:
    words = ("embed", "photos", "-o", "house")
    Path("house.plan").mkdir()
    Path("house.plan/drawing.txt").write_text("precious")
    for more in ((), ("--overwrite",), ("--resume",)):
        clipcls(*words, *more, code=7)
        assert "house.plan is in the way and no run's: name other results, or move it away" in clipcls.err
    assert Path("house.plan/drawing.txt").read_text() == "precious" and not Path("house").exists()
    Path("house.plan").rename("elsewhere")
    Path("house.plan").write_text("precious")
    clipcls(*words, code=7)
    assert "house.plan is in the way" in clipcls.err and Path("house.plan").read_text() == "precious"
    Path("house.plan").unlink()
    with opened(Path("house"), info(), refs):
        Path("house.plan/.DS_Store").touch()
    with opened(Path("house"), info(), refs, overwrite=True):
        assert Path("house.plan/.DS_Store").exists()


def test_a_run_that_never_began_leaves_nothing(photos: FakeDoor) -> None:
    def none() -> Iterator[ImageRef]:
        yield refs()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), opened(Path("out.csv"), info(format="csv"), none):
        pass
    assert [path.name for path in Path().iterdir()] == ["photos"]


def test_a_folder_on_another_disk_is_told(photos: FakeDoor, clipcls: Terminal) -> None:
    shared = Path("/dev/shm")
    if not shared.exists() or shared.stat().st_dev == Path().stat().st_dev:
        pytest.skip("no other disk here")
    with TemporaryDirectory(dir=shared) as elsewhere:
        Path("out").symlink_to(elsewhere)
        clipcls("embed", "photos", "-o", "out", code=7)
        assert "out is a disk of its own: name a folder in it" in clipcls.err
        clipcls("embed", "photos", "-o", f"{elsewhere}/rows", code=3)
        assert len(pd.read_parquet(f"{elsewhere}/rows")) == 12


# Refused before any work


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("-o", "out/", "-f", "csv"), 2, "a folder holds parquet"),
        (("-f", "parquet"), 2, "parquet is for a folder"),
        (("-o", "out/", "--resume", "--overwrite"), 2, "exclude each other"),
        (("-o", "out/", "--write-xmp"), 2, "do not go with a folder of results"),
        (("-o", "out/", "--video", "mean"), 2, "do not go with a folder of results"),
        (("-o", "missing/out/"), 7, "there is no folder missing"),
        (("-o", "./"), 2, ". has no name to put a plan beside: name a file or a folder in it"),
        (("-o", ""), 2, "unknown suffix"),
        (("-o", "/", "-f", "parquet"), 2, "has no name"),
        (("-o", "out.csv", "--shard-size", "5"), 2, "--shard-size is for results in a folder, or for --engine ray"),
        (("-o", "photos/0.png", "-f", "parquet"), 7, "is a file; name a folder"),
        (("-o", "photos/"), 7, "which no such run wrote: name another folder"),
        (("-o", "photos/", "--overwrite"), 7, "which no such run wrote: name another folder"),
        (("-o", "out.csv", "--engine", "spark"), 2, "unknown engine 'spark'"),
        (("-o", "out.csv", "--actors", "2"), 2, "are for --engine ray"),
        (("--engine", "ray"), 2, "--engine ray writes files"),
    ],
)
def test_refused(photos: FakeDoor, clipcls: Terminal, words: tuple[str, ...], code: int, reason: str) -> None:
    clipcls("classify", "photos", *LABELS, *words, code=code)
    assert clipcls.err.count("\n") == 1 and reason in clipcls.err
    assert photos.loads == 0 and sorted(path.name for path in Path().iterdir()) == ["photos"]


def test_embed_refuses_what_it_cannot_write(photos: FakeDoor, clipcls: Terminal) -> None:
    for words in (("--dtype", "int8"), ("--layout", "npz")):
        clipcls("embed", "photos", "-o", "out", *words, code=2)
        assert f"unknown {words[0]} {words[1]!r}" in clipcls.err
    clipcls("embed", "photos", code=2)
    clipcls("embed", "nothing", "-o", "out", code=3)
    assert not Path("out").exists()


def test_without_pyarrow_it_says_what_to_install(
    photos: FakeDoor, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for words in (("embed", "photos", "-o", "out"), ("classify", "photos", *LABELS, "-o", "out/")):
        clipcls(*words, code=2)
        assert clipcls.err == 'error: Parquet needs an optional package: pip install "clipcls[tables]"\n'
    assert photos.loads == 0


def test_too_many_shards_are_told(photos: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.shards.LARGEST_NUMBER", 1)
    with pytest.raises(OutputError, match="raise --shard-size"):
        Plan.make(Path("out"), info(), refs(), 4)
    assert Plan.open(Path("out")) is None


def test_results_and_images_must_be_as_many(photos: FakeDoor) -> None:
    plan = Plan.make(Path("out"), info(), refs(), 5)
    with pytest.raises(ValueError, match="1 results of 5 images"):
        vectors(plan).write(plan.shard(0), [Failure("x", "y")])


def test_a_folder_that_vanishes_is_told(photos: FakeDoor) -> None:
    with opened(Path("out"), info(), refs) as plan:
        assert plan
        os.rename("out.plan", "elsewhere")
        with pytest.raises(OutputError, match=r"^out cannot be written: .*--resume goes on"):
            vectors(plan).write(plan.shard(0) if Path("out.plan").exists() else shard_of(plan), failures(4))


def shard_of(plan: Plan) -> Any:
    from clipcls.records import Shard

    return Shard(0, tuple(refs()[:4]))


def failures(count: int) -> list[Failure]:
    return [Failure(str(at), "unreadable") for at in range(count)]


# While it runs


def test_where_nobody_watches_a_line_of_json_comes_now_and_then(
    fake: Callable[..., FakeDoor], clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(40):
        picture(Path("photos") / f"{at}.png", (at, 0, 0))
    fake(seconds=0.05)
    monkeypatch.setattr(progress, "TOLD_EVERY", 0.05)
    clipcls("embed", "photos", "-o", "out", "--no-cache", "--batch-size", "4", "--shard-size", "4")
    lines = [json.loads(line) for line in clipcls.err.splitlines() if line.startswith("{")]
    assert len(lines) > 2
    assert lines[-1].keys() == {"images", "of", "failed", "images_per_second", "seconds_left", "busy"}
    assert [line["images"] for line in lines] == sorted(line["images"] for line in lines)
    assert lines[-1]["busy"].keys() == {"read", "decode", "encode", "write"}
    assert 0.3 < lines[-1]["busy"]["encode"] <= 1.0
    assert all(line["of"] == 40 for line in lines) and lines[-1]["images"] > 10
    clipcls("embed", "photos", "-o", "quiet", "--no-cache", "--quiet")
    assert clipcls.err == ""


def test_what_other_processes_did_is_counted() -> None:
    from clipcls.records import Done

    tally = Tally()
    assert tally.shares() == {}
    tally.busy = Busy()
    for number in range(2):
        tally.add(Done(number, images=10, failed=1, uncertain=2))
        tally.busy.add("decode", 3000.0)
        tally.busy.add("encode", 1000.0)
    assert (tally.images, tally.failed, tally.uncertain) == (20, 2, 4)
    shares = tally.shares()
    assert shares["decode"] == pytest.approx(3 * shares["encode"], rel=0.01)
    assert tally.line().startswith("20 images, 2 failed, 4 uncertain")


def test_the_store_answers_for_a_run_in_shards(photos: FakeDoor, clipcls: Terminal) -> None:
    clipcls("embed", "photos", "-o", "out", code=3)
    clipcls("embed", "photos", "-o", "again", code=3)
    assert "12 from the cache" in clipcls.err
    pd.testing.assert_frame_equal(pd.read_parquet("out"), pd.read_parquet("again"))
