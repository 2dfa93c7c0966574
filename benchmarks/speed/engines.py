"""One run of a plan in a process of its own: reads a job as JSON, prints what it took."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from speed.pretended import BEGAN, RATE, pretended

LABELS = [f"thing {number}" for number in range(100)]
TEMPLATE = "a photo of a {}."


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Plan, run, and tell."""
    from clipcls import pipeline
    from clipcls.classifier import Classifier
    from clipcls.shards import Plan
    from clipcls.sinks.parts import ParquetRecords
    from clipcls.sources import file_ref

    if RATE in os.environ:
        pipeline.load_encoder = pretended
    elif job["engine"] == "local":
        from speed.pretended import timed

        pipeline.load_encoder = timed(pipeline.load_encoder)
    began = time.perf_counter()
    with Classifier.load(job["model"], device="cpu", cache=False) as classifier:
        head = classifier.zero_shot(LABELS, TEMPLATE)
        output = Path(job["output"])
        output.mkdir()
        paths = islice(cycle(job["files"]), job["images"])
        refs = (file_ref(path, "/") for path in paths)
        info = run_info(classifier, output, job["shard"])
        plan = Plan.make(output, info, refs, job["shard"])
        planned = time.perf_counter()
        scored = partial(head.detached().records, answer=head.answer())
        parts = ParquetRecords(output, info.fingerprint, layout=info.layout)
        tell = (local if job["engine"] == "local" else ray)(plan, classifier, scored, parts, job)
    ended, clock = time.perf_counter(), time.time()
    assert not plan.todo(), "shards are missing"
    usage = resource.getrusage(resource.RUSAGE_SELF)
    first = Path(os.environ[BEGAN]) if BEGAN in os.environ else None
    return tell | {
        "shards": len(plan),
        "plan": planned - began,
        "seconds": ended - planned,
        "cpu": usage.ru_utime + usage.ru_stime,
        "megabytes": usage.ru_maxrss / 1024,
        "rate": job["images"] / (clock - float(first.read_text())) if first else job["images"] / (ended - planned),
    }


def run_info(classifier: Any, output: Path, shard: int) -> Any:
    from clipcls.sinks.runinfo import LabelInfo, RunInfo

    info = classifier.info
    return RunInfo.of(
        info,
        versions={},
        labels=tuple(LabelInfo(name, name) for name in LABELS),
        prompts=(),
        format="parquet",
        shard_size=shard,
        base="/",
        paths=(),
    )


def local(plan: Any, classifier: Any, scored: Any, parts: Any, job: dict[str, Any]) -> dict[str, Any]:
    from clipcls.shards import run_locally

    run_locally(plan, classifier._embedder, scored, parts, lambda results: results)
    return {}


def ray(plan: Any, classifier: Any, scored: Any, parts: Any, job: dict[str, Any]) -> dict[str, Any]:
    """The busy seconds of each stage, added up over the shards."""
    from clipcls.engines import ray as engine
    from clipcls.engines.stages import Job, Model
    from clipcls.loading import Limits
    from clipcls.settings import Settings

    info = classifier.info
    model = Model(info.spec, "cpu", info.precision, info.fingerprint, None, Settings.load({}).traced_folder)
    busy = dict.fromkeys(("decode", "encode", "score", "write"), 0.0)
    first = last = 0.0

    def seen(finished: Any) -> None:
        nonlocal first, last
        last = time.perf_counter()
        first = first or last
        for stage in busy:
            busy[stage] += getattr(finished, stage)

    engine._WAVE = job.get("wave") or engine._WAVE
    pool = engine.Pool(actors=job.get("actors"))
    with engine.connected(pool):
        engine.run(Job(plan, parts, model, Limits(), scored), pool, seen)
    return {"busy": busy, "between": last - first}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
