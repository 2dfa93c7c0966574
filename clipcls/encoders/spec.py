"""What a model may be called: ``starter``, a folder, ``hf-hub:org/repo`` or open_clip's ``ARCH/TAG``. No torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipcls.errors import ModelError

ENCODER_VERSION = "oc1"
"""Part of every fingerprint: raised when the code that computes embeddings changes them."""

PRECISION = "fp32"
"""What the towers compute in."""

STARTER = "starter"
STARTER_FOLDER = Path(__file__).parent.parent / "starter"
CONFIG_NAME = "open_clip_config.json"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's name, understood."""

    given: str
    """As the person wrote it."""
    kind: Literal["folder", "hub", "tag"]
    target: str
    """An absolute folder, a hub repository, or ``ARCH/TAG``."""

    @property
    def key(self) -> str:
        """The same for every way to write the same model, from whichever folder."""
        return f"{self.kind}:{self.target}"

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages known without loading the model; empty where its files must tell."""
        return ("en", "zh") if self.is_starter else ()

    @property
    def is_starter(self) -> bool:
        """Whether it is the model that comes with clipcls, by whichever name."""
        return self.target == str(STARTER_FOLDER)


def parse_spec(given: str) -> ModelSpec:
    """Understand a model's name; nothing is loaded or asked of a network.

    ``./`` or an existing folder means a path, any other ``a/b`` is ``ARCH/TAG``.

    Raises:
        ModelError: the name fits none of the forms, or the folder holds no open_clip model.
    """
    if given == STARTER:
        return ModelSpec(given, "folder", str(STARTER_FOLDER))
    if given.startswith("hf-hub:"):
        repo = given.removeprefix("hf-hub:")
        if repo.count("/") != 1 or not all(repo.split("/")):
            raise ModelError(f"{given!r}: a model on the hub is written hf-hub:ORGANISATION/REPOSITORY")
        return ModelSpec(given, "hub", repo)
    if not given.strip():
        raise ModelError("the model's name is empty: use starter, ARCH/TAG, hf-hub:ORG/REPO or a folder")
    path = Path(given.removeprefix("local-dir:")).expanduser()
    if given.startswith(("local-dir:", ".", "~", os.sep)) or path.is_dir():
        return _folder(given, path)
    if given.count("/") == 1 and all(given.split("/")):
        return ModelSpec(given, "tag", given)
    raise ModelError(
        f"unknown model {given!r}: use starter, ARCH/TAG such as xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k, "
        f"hf-hub:ORGANISATION/REPOSITORY, or the path of an open_clip folder"
    )


def _folder(given: str, path: Path) -> ModelSpec:
    if not path.is_dir():
        raise ModelError(f"no model folder {path}: it does not exist")
    if not (path / CONFIG_NAME).is_file():
        raise ModelError(f"{path} is not an open_clip model folder: it holds no {CONFIG_NAME}")
    return ModelSpec(given, "folder", os.path.abspath(path))
