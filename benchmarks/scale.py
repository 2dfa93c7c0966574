"""What a run over many machines is made of: ``python benchmarks/scale.py [SECTION ...]``.

stages      each stage's rate alone: plan, read, decode, travel, encode, score, write.
engine      what Ray costs: for each shard, and for each image beside the same stages without it.
rows        10^4 and 10^6 images through the real engine with a model that only takes its time: the driver's memory.
waves       5,000 shards in one data set of Ray, and in ten: what the driver remembers of each, and for how long.
vit         ViT-B-32 with random weights, from the first batch on: Ray beside a local run, on the same machine.

All runs on the CPU of this machine, with photographs that are made here; files are in the page cache. docs/scale.md
works out from the figures what millions of images take. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import sys

from speed.bench import Section
from speed.command import command
from speed.many import of_engine, of_rows, of_stages, of_vit, of_waves

SECTIONS: dict[str, Section] = {
    "stages": of_stages,
    "engine": of_engine,
    "rows": of_rows,
    "waves": of_waves,
    "vit": of_vit,
}

if __name__ == "__main__":
    sys.exit(command(__doc__, SECTIONS))
