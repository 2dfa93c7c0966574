"""``--engine ray`` on a real cluster of two small machines, both in this one: the rows of a local run, whoever dies."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from conftest import IMAGES
from fakes import FakeDoor, picture
from PIL import Image
from ray_workers import CRASH, STUCK, Parts, Plan, logged

from clipcls.classifier import Classifier
from clipcls.encoders import load_encoder
from clipcls.encoders.base import Encoder
from clipcls.engines import ray as engine
from clipcls.engines.ray import Pool, run
from clipcls.engines.stages import Finished, Job, Model
from clipcls.errors import ModelError, UsageError
from clipcls.loading import Limits
from clipcls.pipeline import Embedded
from clipcls.records import Failure, ImageRef, Prediction
from clipcls.sources import ImageSource

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own settings

HERE = Path(__file__).parent
SHARD = 8
"""Images of a shard: two batches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[str]:
    """The address of two machines with a processor each, whose workers have a fake model."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), str(HERE)]))
        patch.setenv("CLIPCLS_TEST_FOLDER", str(folder))
        patch.setenv("RAY_RUNTIME_ENV_HOOK", "ray_workers.runtime_env")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        machine = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=machine)
        cluster.add_node(**machine)
        yield cluster.address
        cluster.shutdown()


@pytest.fixture(scope="module")
def connected(cluster: str) -> Iterator[None]:
    """This process as a driver, for runs one after the other."""
    import ray

    ray.init(cluster, log_to_driver=False, logging_level="CRITICAL")
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def fast(folder: Path) -> None:
    """An empty log and a model that takes no time."""
    for name in ("workers", "crashed", "encoded"):
        (folder / name).unlink(missing_ok=True)
    (folder / "seconds").write_text("0")


def coloured(home: Path, count: int) -> list[str]:
    """Pictures that are all different."""
    return [str(picture(home / f"{at:03}.png", (at % 256, 255 - at % 256, at // 256))) for at in range(count)]


def planned(out: Path, refs: Any) -> Path:
    Plan.make(out, refs, SHARD)
    return out


def job(out: Path, **more: Any) -> Job:
    """What is to be done with a plan, by the fake model."""
    model = Model("starter", "cpu", "fp32", more.pop("fingerprint", "oc1-fake"))
    return Job(Plan(out), Parts(out), model, more.pop("limits", Limits()), **more)


def rows(out: Path) -> list[Any]:
    """What all parts hold, in the plan's order."""
    plan = Plan(out)
    assert not plan.todo()
    return [row for at in range(len(plan)) for row in pickle.loads((out / f"{at}.part").read_bytes())]


def unreachable() -> BinaryIO:
    raise OSError(None, "404 Not Found")


def hostile(home: Path) -> list[ImageRef]:
    """The pictures of the tests, good and broken ones, one that is missing, one twice, one that cannot be fetched."""
    refs = list(ImageSource([str(IMAGES)]))
    missing, twice = ImageSource([*coloured(home, 1)]), ImageSource([*coloured(home, 1)])
    gone = [ImageRef(ref.id, ref.base, None, unreachable) for ref in missing]
    return [*refs, *gone, *twice, *(ref for ref in twice)]


def check_equal(found: list[Any], expected: list[Any]) -> None:
    assert [row.path for row in found] == [row.path for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Failure):
            assert one.error == other.error
        elif isinstance(one, Prediction):
            assert [score.label for score in one.ranked] == [score.label for score in other.ranked]
            assert one.labels == other.labels
            for mine, theirs in zip(one.ranked, other.ranked, strict=True):
                assert abs(mine.probability - theirs.probability) < 1e-6
                assert abs(mine.cosine - theirs.cosine) < 1e-6
        else:
            assert np.abs(one.vector - other.vector).max() < 1e-6


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("kind", ["embed", "competing", "multi-label"])
def test_both_engines_give_equal_rows(here: Path, fake: Callable[..., FakeDoor], kind: str) -> None:
    fake()
    refs = hostile(here / "own")
    with Classifier.load(cache=False) as classifier:
        options: dict[str, Any] = {}
        expected: list[Any] = list(classifier.embedded(refs))
        if kind != "embed":
            head = classifier.zero_shot(["red", "green", "blue"], multi_label=kind == "multi-label")
            expected = list(head.classify(refs, top_k=2, threshold=0.4))
            options = {"scored": partial(head.detached().records, answer=head.answer(top_k=2, threshold=0.4))}
        finished: list[Finished] = []
        run(job(planned(here / "out", refs), **options), Pool(), finished.append)
    assert any(isinstance(row, Failure) for row in expected) and not all(isinstance(row, Failure) for row in expected)
    check_equal(rows(here / "out"), expected)
    assert sorted(each.done.number for each in finished) == list(range(len(finished)))
    assert sum(each.done.images for each in finished) == len(refs)
    assert sum(each.done.failed for each in finished) == sum(isinstance(row, Failure) for row in expected)


@pytest.mark.usefixtures("connected")
def test_a_picture_that_ends_its_worker_costs_no_other(here: Path) -> None:
    good = coloured(here, 2 * SHARD)
    bad = here / "bad.png"
    bad.write_bytes(CRASH)
    run(job(planned(here / "out", ImageSource([*good[:3], str(bad), *good[3:]]))), Pool(), lambda finished: None)
    found = rows(here / "out")
    assert len(logged("crashed")) == 1
    assert [row.path for row in found if isinstance(row, Failure)] == [str(bad)]
    assert len(found) == 2 * SHARD + 1
    assert sum(count for _, count in logged("encoded")) == 2 * SHARD


@pytest.mark.usefixtures("connected")
def test_a_picture_that_takes_too_long_is_given_up(here: Path) -> None:
    good, bad = coloured(here, 2), here / "bad.png"
    bad.write_bytes(STUCK)
    run(
        job(planned(here / "out", ImageSource([*good, str(bad)])), limits=Limits(seconds=1.0)),
        Pool(),
        lambda finished: None,
    )
    assert [getattr(row, "error", None) for row in rows(here / "out")] == [
        None,
        None,
        "not decoded within 1 s (allow more: --time-limit, or time_limit in the settings)",
    ]


@pytest.mark.usefixtures("connected")
def test_a_worker_that_has_another_model_ends_the_run_in_one_line(here: Path) -> None:
    planned(here / "out", ImageSource(coloured(here, 2)))
    with pytest.raises(ModelError, match=r"^the model starter is another on a worker \(oc1-fake\) than here \(other\)"):
        run(job(here / "out", fingerprint="other"), Pool(), lambda finished: None)


def check_whole(out: Path, count: int, kills: int) -> None:
    """Every input one row, none doubled, and no more encoded again than a shard for each kill."""
    assert Counter(Path(row.path).name for row in rows(out)) == Counter(f"{at:03}.png" for at in range(count))
    assert all(isinstance(row, Embedded) for row in rows(out))
    assert count <= sum(images for _, images in logged("encoded")) <= count + kills * SHARD


def check_worker_kills(folder: Path, here: Path, kills: int, count: int, seed: int) -> None:
    """The encoder is killed again and again while it works."""
    chance = random.Random(seed)
    (folder / "seconds").write_text("0.05")
    killed: set[int] = set()

    def kill() -> None:
        while len(killed) < kills:
            alive = {process for process, _ in logged("encoded")} - killed
            if alive:
                time.sleep(chance.random() * 0.2)
                os.kill(alive.pop(), signal.SIGKILL)
                killed.update(process for process, _ in logged("encoded"))
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    run(job(planned(here / "out", ImageSource(coloured(here, count)))), Pool(actors=1), lambda finished: None)
    killer.join()
    assert len({process for process, _ in logged("encoded")}) == kills + 1
    check_whole(here / "out", count, kills)


@pytest.mark.usefixtures("connected")
def test_killed_workers_lose_and_double_nothing(folder: Path, here: Path) -> None:
    check_worker_kills(folder, here, 2, 12 * SHARD, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("connected")
def test_ten_killed_workers_lose_and_double_nothing(folder: Path, here: Path) -> None:
    check_worker_kills(folder, here, 10, 40 * SHARD, 2)


def check_driver_kills(cluster: str, folder: Path, here: Path, kills: int, count: int, seed: int) -> None:
    chance = random.Random(seed)
    (folder / "seconds").write_text("0.1")
    out = planned(here / "out", ImageSource(coloured(here, count)))
    command = [sys.executable, HERE / "ray_driver.py", cluster, out]
    for _ in range(kills):
        before = len(logged("encoded"))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as driver:
            while len(logged("encoded")) < before + 1 + chance.randrange(5) and driver.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.random() * 0.1)
            driver.kill()
            assert driver.communicate()[0] == b""
    subprocess.run(command, check=True, timeout=120)
    check_whole(out, count, kills)


def test_killed_drivers_lose_and_double_nothing(cluster: str, folder: Path, here: Path) -> None:
    check_driver_kills(cluster, folder, here, 1, 5 * SHARD, 3)


@pytest.mark.slow
def test_ten_killed_drivers_lose_and_double_nothing(cluster: str, folder: Path, here: Path) -> None:
    check_driver_kills(cluster, folder, here, 10, 40 * SHARD, 4)


def test_without_the_extra_one_line_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    planned(here / "out", ImageSource(coloured(here, 1)))
    with pytest.raises(UsageError, match=r'^--engine ray needs an optional package: pip install "clipcls\[ray\]"$'):
        run(job(here / "out"), Pool(), lambda finished: None)


def test_how_many_encoders_there_are() -> None:
    sizes = engine._sizes
    assert sizes(Pool(), {"CPU": 8.0}, 2) == (2, 0.0)
    assert sizes(Pool(), {"CPU": 8.0, "GPU": 4.0}, 2) == (4, 1.0)
    assert sizes(Pool(gpus_per_actor=0.5), {"CPU": 8.0, "GPU": 4.0}, 2) == (8, 0.5)
    assert sizes(Pool(actors=3, gpus_per_actor=0), {"CPU": 8.0, "GPU": 4.0}, 2) == (3, 0.0)
    for pool in (Pool(gpus_per_actor=1.0), Pool(gpus_per_actor=0.5, actors=1)):
        with pytest.raises(UsageError, match=r"the Ray cluster"):
            sizes(pool, {"CPU": 8.0}, 2)


def check_travels(encoder: Encoder, most: int) -> None:
    """What prepares pictures, from another process, gives the same and has no weights with it."""
    packed = pickle.dumps(encoder.preparation())
    assert len(packed) < most
    there = pickle.loads(packed)
    assert there.image_size == encoder.image_size
    image = Image.open(IMAGES / "chelsea.jpg").convert("RGB")
    one, other = (each.preprocess(image) for each in (encoder, there))
    if not isinstance(one, dict):
        one, other = {"pixels": one}, {"pixels": other}
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["clip", "photo", "siglip"])
def test_what_prepares_pictures_for_open_clip_travels_without_weights(tmp_path: Path, name: str) -> None:
    from tiny import MODELS, make_model

    check_travels(load_encoder(f"local-dir:{make_model(tmp_path / name, MODELS[name])}", device="cpu")[0], 2000)


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_what_prepares_pictures_for_transformers_travels_without_weights(tmp_path: Path, family: str) -> None:
    from tiny import make_hf_model

    check_travels(load_encoder(f"hf:{make_hf_model(tmp_path / family, family)}", device="cpu")[0], 5000)


def test_what_prepares_pictures_for_onnx_travels_without_weights() -> None:
    check_travels(load_encoder("starter", device="cpu")[0], 2000)
