"""Does what is missing of a plan on a Ray cluster, for tests that kill it.

python tests/ray_driver.py ADDRESS OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from test_ray import job

from clipcls.engines.ray import Pool, run

if __name__ == "__main__":
    run(job(Path(sys.argv[2])), Pool(sys.argv[1]), lambda finished: None)
