"""How fast clipcls is, beside others and beside the limit: ``python benchmarks/speed.py [SECTION ...]``.

help        clipcls --help, whole process.
start       one new picture and three new labels, whole process; beside open_clip's README and transformers' pipeline.
texts       a zero-shot head of 100 labels and 80 templates, beside open_clip's build_zero_shot_classifier.
limit       image towers on pictures in memory, beside torch's and a float32 matrix product; int8 and bf16.
images      end to end, beside the limit, open_clip's README, a DataLoader (as pybioclip works), transformers' pipeline.
big         loading and preprocessing photographs of 12 megapixels, beside open_clip's transform.
rerun       other labels for pictures that are known, whole process.
memory      peaks over few and over many pictures, beside a bare process that has the same model.

All runs on the CPU, with random weights (the starter has its own) and photographs that are made here. What is compared
takes turns on the same machine; each figure is the median of its turns, each ratio the median of ratios in one turn.
Rivals are processes of their own, with
the batch size, workers, threads and waiting of threads (OMP_WAIT_POLICY) that suit them best here; README scripts run
as they are. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import sys

from speed.bench import Section
from speed.command import command
from speed.speeds import of_big, of_images, of_limit, of_texts
from speed.starts import of_help, of_memory, of_rerun, of_start

SECTIONS: dict[str, Section] = {
    "help": of_help,
    "start": of_start,
    "texts": of_texts,
    "limit": of_limit,
    "images": of_images,
    "big": of_big,
    "rerun": of_rerun,
    "memory": of_memory,
}

if __name__ == "__main__":
    sys.exit(command(__doc__, SECTIONS))
