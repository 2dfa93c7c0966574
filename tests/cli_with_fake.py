"""clipcls with a fake model behind every name, for tests that need a process of their own but no torch.

python tests/cli_with_fake.py SECONDS_A_BATCH WORDS...
"""

from __future__ import annotations

import sys

from fakes import FakeDoor, FakeEncoder

import clipcls.pipeline
from clipcls.cli import main

if __name__ == "__main__":
    clipcls.pipeline.load_encoder = FakeDoor(FakeEncoder(seconds=float(sys.argv.pop(1))))  # type: ignore[assignment]
    main()
