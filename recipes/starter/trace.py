"""Write a model's graphs beside its weights: ``python recipes/starter/trace.py FOLDER``.

clipcls traces any model into its cache at first use (clipcls/encoders/tracing.py); the starter comes with its graphs.
Where they answer otherwise than torch, none are left in the folder and the exit code is 4.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from clipcls.encoders import file_digest
from clipcls.encoders.files import FACTS, GRAPHS
from clipcls.encoders.locate import locate
from clipcls.encoders.spec import parse_spec
from clipcls.encoders.traced import TOKENS, ready, refusal
from clipcls.errors import ClipclsError, ModelError

TOKENIZER = "tokenizer.json"


def trace(folder: Path) -> None:
    """Put graphs and facts into an open_clip folder that holds a tokenizer of its own.

    Raises:
        ModelError: the folder holds no model that can be traced, or the graphs give other answers than torch.
    """
    for name in (*GRAPHS, FACTS):
        (folder / name).unlink(missing_ok=True)
    spec = parse_spec(str(folder))
    files = locate(spec)
    fingerprint = files.fingerprint("fp32", file_digest)
    with tempfile.TemporaryDirectory() as home:
        traced = ready(spec, files, "fp32", fingerprint, Path(home))
        if traced is None:
            raise ModelError(f"{folder} is not traced: {refusal(Path(home), fingerprint) or 'it failed'}")
        for name in GRAPHS:
            shutil.copyfile(traced.folder / name, folder / name)
        if same_tokenizer(traced.folder / TOKENS, folder / TOKENIZER):
            replace(traced, folder=folder, tokenizer=TOKENIZER).save()  # no second copy of the vocabulary
        else:
            shutil.copyfile(traced.folder / TOKENS, folder / TOKENS)
            replace(traced, folder=folder).save()


def same_tokenizer(one: Path, other: Path) -> bool:
    """Whether two files make the same tokenizer, however they are written."""
    from tokenizers import Tokenizer

    def plain(path: Path) -> str:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        written: str = tokenizer.to_str()
        return written

    return plain(one) == plain(other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    try:
        trace(parser.parse_args().folder)
    except ClipclsError as exc:
        print(exc, file=sys.stderr)
        raise SystemExit(exc.exit_code) from exc


if __name__ == "__main__":
    main()
