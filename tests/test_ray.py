"""``--engine ray`` on a real cluster of two small machines, both in this one: the rows of a local run, whoever dies."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import IMAGES, Terminal
from fakes import FakeDoor, picture
from PIL import Image
from ray_workers import CRASH, STUCK, logged
from servers import Web, free_port, s3_server, tar

from clipcls.encoders import load_encoder
from clipcls.encoders.base import Encoder
from clipcls.engines import ray as engine
from clipcls.engines.ray import Pool
from clipcls.errors import ClipclsError, ModelError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own settings

HERE = Path(__file__).parent
Fake = Callable[..., FakeDoor]
SHARD = 8
"""Images of a shard: two batches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[str]:
    """The address of two machines, each with a processor and what Ray takes for a graphics card, whose workers have a
    fake model and the key to a bucket."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch, s3_server() as person:
        for name, value in person.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), str(HERE)]))
        patch.setenv("CLIPCLS_TEST_FOLDER", str(folder))
        patch.setenv("RAY_RUNTIME_ENV_HOOK", "ray_workers.runtime_env")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        machine = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
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
    for name in ("workers", "crashed", "encoded", "devices"):
        (folder / name).unlink(missing_ok=True)
    (folder / "seconds").write_text("0")


def coloured(count: int, home: str = "imgs") -> list[Path]:
    """Pictures that are all different."""
    return [picture(Path(home) / f"{at:03}.png", (at % 256, 255 - at % 256, at // 256)) for at in range(count)]


def rows(output: str) -> list[dict[str, Any]]:
    """What all parts hold, in the order of their names; no part is left of a run that was cut off."""
    import pyarrow.parquet as pq

    assert not Path(f"{output}.plan").exists()
    return [row for part in sorted(Path(output).glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def hostile() -> None:
    """The pictures of the tests, good and broken ones, one twice, and one that is not there."""
    shutil.copytree(IMAGES, "imgs/tests")
    coloured(SHARD)
    shutil.copy("imgs/000.png", "imgs/twice.png")
    Path("imgs/gone.png").symlink_to("nowhere.png")


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    "words",
    [
        ("embed", "imgs"),
        ("classify", "imgs", "--labels", "red,green,blue", "--top-k", "2", "--threshold", "0.4"),
        ("classify", "imgs", "--labels", "red,green,blue", "--multi-label", "--groups", "--labels-file", "labels.toml"),
    ],
    ids=["vectors", "competing", "multi-label"],
)
def test_both_engines_give_equal_rows(here: Path, fake: Fake, clipcls: Terminal, words: tuple[str, ...]) -> None:
    fake()
    hostile()
    Path("labels.toml").write_text('labels = [{ name = "orange", group = "warm" }]')
    for name in ("local", "ray"):
        clipcls(*words, "-o", f"{name}/", "--engine", name, "--shard-size", SHARD, code=3)
    local, ray = rows("local"), rows("ray")
    assert len(list(Path("ray").glob("*.parquet"))) > 2
    assert {row["status"] for row in local} == {"ok", "error"}
    assert [row["path"] for row in ray] == [row["path"] for row in local]
    for one, other in zip(ray, local, strict=True):
        assert flat(one) == approximately(flat(other))


@pytest.mark.usefixtures("connected")
def test_both_engines_read_what_is_far_away_or_in_a_file(here: Path, fake: Fake, clipcls: Terminal) -> None:
    fake()
    pictures = [path.read_bytes() for path in coloured(2 * SHARD)]
    pictures[3] = b"poison"
    table = {"image": pictures, "caption": [f"number {at}" for at in range(len(pictures))]}
    pyarrow.parquet.write_table(pyarrow.table(table), "table.parquet", row_group_size=5)
    client: Any = boto3.Session().client("s3")  # the default one keeps the first user it meets
    client.create_bucket(Bucket="pictures")
    with closing(Web()) as web:
        for at, content in enumerate(pictures):
            client.put_object(Bucket="pictures", Key=f"imgs/{at}.png", Body=content)
            web.files[f"/{at}.png"] = content
        web.files["/shard-0.tar"] = tar({f"{at}.png": content for at, content in enumerate(pictures)})
        gone = ["s3://pictures/gone.png", f"{web.url}/gone.png", f"http://127.0.0.1:{free_port()}/a.png"]
        Path("list").write_text("\n".join([*gone, *(web.url + name for name in web.files if name.endswith("png"))]))
        for at, source in enumerate(("@list", "s3://pictures/imgs/", f"{web.url}/shard-{{0..1}}.tar", "table.parquet")):
            for name in ("local", "ray"):
                words = ("classify", source, "-o", f"{name}{at}/", "--engine", name, "--shard-size", SHARD)
                clipcls(*words, "--labels", "red,green,blue", "--top-k", "2", code=3)
            local, ray = rows(f"local{at}"), rows(f"ray{at}")
            assert [flat(row) for row in ray] == [approximately(flat(row)) for row in local]
            assert Counter(row["status"] for row in ray) == {"ok": len(pictures) - 1, "error": [4, 1, 2, 1][at]}


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row without lists."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        for at, each in enumerate(value if isinstance(value, list) else [value]):
            inner = each if isinstance(each, dict) else {"": each}
            found |= {f"{name} {at} {key}": item for key, item in inner.items()}
    return found


def approximately(row: dict[str, Any]) -> dict[str, Any]:
    """Its numbers may differ by rounding."""
    return {name: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value for name, value in row.items()}


@pytest.mark.usefixtures("connected")
def test_a_csv_file_is_that_of_a_local_run(
    here: Path, fake: Fake, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_WAVE", 2)  # as if there were millions of images
    fake()
    hostile()
    words = ("classify", "imgs", "--labels", "red,green,blue", "--shard-size", SHARD)
    clipcls("classify", "imgs", "--labels", "red,green,blue", "-o", "local.csv", code=3)
    clipcls(*words, "-o", "ray.csv", "--engine", "ray", code=3)
    assert Path("ray.csv").read_bytes() == Path("local.csv").read_bytes()


@pytest.mark.usefixtures("connected", "here")
@pytest.mark.parametrize(
    ("pool", "encoders"),
    [((), 2), (("--gpus-per-actor", 0.5, "--actors", 3), 3)],
    ids=["one each", "shared"],
)
def test_graphics_cards_are_shared_out(
    folder: Path, fake: Fake, clipcls: Terminal, pool: tuple[str | float, ...], encoders: int
) -> None:
    door = fake()
    coloured(4 * SHARD)
    (folder / "seconds").write_text("0.2")
    clipcls("embed", "imgs", "-o", "out", "--engine", "ray", "--device", "cuda", "--shard-size", SHARD, *pool)
    assert door.device == "auto", "the command's own machine need not have one"
    found = (folder / "devices").read_text().splitlines()
    assert found == ["cuda of 0"] * (1 + encoders), "and one that was asked how the model wants its pictures"


@pytest.mark.usefixtures("connected")
def test_pictures_that_end_or_stop_their_worker_cost_no_other(here: Path, fake: Fake, clipcls: Terminal) -> None:
    fake()
    coloured(2 * SHARD)
    Path("imgs/003-crash.png").write_bytes(CRASH)
    Path("imgs/012-stuck.png").write_bytes(STUCK)
    clipcls("embed", "imgs", "-o", "out", "--engine", "ray", "--shard-size", SHARD, "--time-limit", 1, code=3)
    assert {row["path"]: row["error"] for row in rows("out") if row["error"]} == {
        "imgs/003-crash.png": "not an image, or too damaged to be recognised as one",
        "imgs/012-stuck.png": "not decoded within 1 s (allow more: --time-limit, or time_limit in the settings)",
    }
    assert len(rows("out")) == 2 * SHARD + 2
    assert len(logged("crashed")) == 1
    assert sum(count for _, count in logged("encoded")) == 2 * SHARD


@pytest.mark.usefixtures("connected")
def test_a_worker_that_has_another_model_ends_the_run_in_one_line(here: Path, fake: Fake, clipcls: Terminal) -> None:
    fake(fingerprint="oc1-other")
    coloured(2)
    clipcls("embed", "imgs", "-o", "out", "--engine", "ray", code=ModelError.exit_code)
    said = "the model starter is another on a worker (oc1-fake) than here (oc1-other): give all machines the same files"
    assert f"error: {said}" in clipcls.err.splitlines()


def check_whole(count: int, kills: int) -> None:
    """Every input one row, none doubled, and no more encoded again than a shard for each kill."""
    assert Counter(row["path"] for row in rows("out")) == Counter(f"imgs/{at:03}.png" for at in range(count))
    assert all(row["status"] == "ok" for row in rows("out"))
    assert count <= sum(images for _, images in logged("encoded")) <= count + kills * SHARD


def check_worker_kills(folder: Path, clipcls: Terminal, kills: int, count: int, seed: int) -> None:
    """The encoder is killed again and again while it works."""
    dice, killed = random.Random(seed), set[int]()
    coloured(count)
    (folder / "seconds").write_text("0.05")

    def kill() -> None:
        while len(killed) < kills:
            if alive := {process for process, _ in logged("encoded")} - killed:
                time.sleep(dice.uniform(0, 0.2))
                os.kill(*alive, signal.SIGKILL)
                killed.update(alive)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    clipcls("embed", "imgs", "-o", "out", "--engine", "ray", "--actors", 1, "--shard-size", SHARD, "--quiet")
    killer.join()
    assert clipcls.out == clipcls.err == ""
    assert len({process for process, _ in logged("encoded")}) == kills + 1
    check_whole(count, kills)


@pytest.mark.usefixtures("connected", "here")
def test_killed_workers_lose_and_double_nothing(folder: Path, fake: Fake, clipcls: Terminal) -> None:
    fake()
    check_worker_kills(folder, clipcls, 2, 12 * SHARD, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("connected", "here")
def test_ten_killed_workers_lose_and_double_nothing(folder: Path, fake: Fake, clipcls: Terminal) -> None:
    fake()
    check_worker_kills(folder, clipcls, 10, 60 * SHARD, 2)


def check_driver_kills(cluster: str, folder: Path, kills: int, count: int, seed: int) -> None:
    """The command is killed while it works; the last one, on a Ray of its own, goes on to the end."""
    dice = random.Random(seed)
    coloured(count)
    (folder / "seconds").write_text("0.1")
    words = ["embed", "imgs", "-o", "out", "--shard-size", str(SHARD), "--resume", "--quiet"]
    command = [sys.executable, str(HERE / "cli_with_fake.py"), "0", *words, "--engine", "ray", "--actors", "1"]
    for _ in range(kills):
        enough = len(logged("encoded")) + dice.randint(1, 5)
        with subprocess.Popen(
            [*command, "--address", cluster], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as driver:
            while len(logged("encoded")) < enough and driver.poll() is None:
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.1))
            driver.kill()
            said, _ = driver.communicate()
        assert (driver.returncode, said) == (-signal.SIGKILL, b"")
    done = subprocess.run(command, capture_output=True, timeout=200, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    check_whole(count, kills)


@pytest.mark.usefixtures("here")
def test_killed_drivers_lose_and_double_nothing(cluster: str, folder: Path) -> None:
    check_driver_kills(cluster, folder, 1, 5 * SHARD, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_ten_killed_drivers_lose_and_double_nothing(cluster: str, folder: Path) -> None:
    check_driver_kills(cluster, folder, 10, 40 * SHARD, 4)


def test_without_the_extra_one_line_says_what_to_install(
    here: Path, fake: Fake, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    monkeypatch.setitem(sys.modules, "ray", None)
    coloured(1)
    for _ in range(2):
        clipcls("embed", "imgs", "-o", "out", "--engine", "ray", code=UsageError.exit_code)
        assert clipcls.err.splitlines()[-1].endswith('needs an optional package: pip install "clipcls[ray]"')
        assert "--resume" not in clipcls.err, "nothing has begun"


@pytest.mark.usefixtures("connected", "here")
def test_what_keeps_ray_from_starting_costs_no_results(fake: Fake, clipcls: Terminal) -> None:
    fake()
    coloured(1)
    clipcls("embed", "imgs", "-o", "out")
    too_many = ("--engine", "ray", "--gpus-per-actor", 5)
    clipcls("embed", "imgs", "-o", "out", "--overwrite", *too_many, code=UsageError.exit_code)
    assert "error: --gpus-per-actor 5, but the Ray cluster has 2" in clipcls.err
    assert len(rows("out")) == 1


@pytest.mark.usefixtures("connected")
def test_ray_reports_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.usage import usage_lib

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert usage_lib.usage_stats_enabled()
    with engine._cluster(None):
        assert not usage_lib.usage_stats_enabled()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:9"])
def test_no_cluster_at_an_address_is_one_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UsageError, match=f"^no Ray cluster answers at {address}: "), engine._cluster(address):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="has another library of C")
def test_a_worker_ends_without_what_its_library_does_last() -> None:
    code = """
import atexit, ctypes, sys, time
from clipcls.engines.ray import _end_at_once
last = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: time.sleep(60))
ctypes.CDLL(None).__cxa_atexit(last, None, None)
atexit.register(print, "what Python does last")
_end_at_once()
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "what Python does last\n", "")


def test_how_many_encoders_there_are() -> None:
    sizes = engine._sizes
    assert sizes(Pool(), {"CPU": 8.0}, 2) == (2, 0.0)
    assert sizes(Pool(), {"CPU": 8.0, "GPU": 4.0}, 2) == (4, 1.0)
    assert sizes(Pool(gpus_per_actor=0.5), {"CPU": 8.0, "GPU": 4.0}, 2) == (8, 0.5)
    assert sizes(Pool(actors=3, gpus_per_actor=0), {"CPU": 8.0, "GPU": 4.0}, 2) == (3, 0.0)
    for pool in (Pool(gpus_per_actor=1.0), Pool(gpus_per_actor=0.5, actors=1)):
        with pytest.raises(UsageError, match=r"the Ray cluster"):
            sizes(pool, {"CPU": 8.0}, 2)
    with pytest.raises(UsageError, match="--actors 5 with 1 GPUs each are more than the Ray cluster's 4"):
        sizes(Pool(actors=5), {"CPU": 8.0, "GPU": 4.0}, 2)


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", fail)
    words = r"^Ray does not start here: RuntimeError: no room; its log is in "
    with pytest.raises(UsageError, match=words), engine._cluster(None):
        pass


def test_what_ray_says_itself_is_one_line() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    words = r"^Ray gave up: RayError: gone; the same command with --resume goes on$"
    with pytest.raises(ClipclsError, match=words), engine._plain_errors():
        raise exceptions.RayError("gone")


@pytest.mark.parametrize("attempt", [9, 10])
def test_work_that_ends_every_worker_ends(attempt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    core = types.SimpleNamespace(get_current_task_attempt_number=lambda: attempt)
    context = types.SimpleNamespace(worker=types.SimpleNamespace(core_worker=core))
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    if attempt < 10:
        assert engine._attempt() == attempt
        return
    with pytest.raises(ClipclsError, match=r"^10 workers in turn ended over one shard, "):
        engine._attempt()


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
