"""What a model may be called: an alias, a folder, ``hf-hub:org/repo``, ``hf:org/repo`` or open_clip's ``ARCH/TAG``.

No torch here, and the catalogue is read only where it can help.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipcls.errors import ModelError

if TYPE_CHECKING:
    from clipcls.encoders.catalogue import Entry

ENCODER_VERSION = "oc1"
"""Part of every fingerprint: raised when the code that computes embeddings changes them."""

STARTER = "starter"
STARTER_FOLDER = Path(__file__).parent.parent / "starter"
CONFIG_NAME = "open_clip_config.json"
MODEL_NAME = re.compile(r"\w[\w.-]*")
"""What an imported model may be called."""
_HF_NAMES = ("config.json", "preprocessor_config.json")
"""What a folder for transformers holds; newer ones may have a processor_config.json in place of the second."""
_HF_WANTED = " and ".join(_HF_NAMES)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's name, understood."""

    given: str
    """As the person wrote it."""
    kind: Literal["folder", "hub", "tag", "hf"]
    """Folder, hub and tag are open_clip's; hf is a repository or folder for transformers."""
    target: str
    """An absolute folder, a hub repository, or ``ARCH/TAG``."""

    @property
    def key(self) -> str:
        """The same for every way to write the same model, from whichever folder."""
        return f"{self.kind}:{self.target}"

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages known without loading the model; empty where its files must tell."""
        if self.is_starter:
            return ("en", "zh")
        return entry.languages if (entry := self.entry) else ()

    @property
    def entry(self) -> Entry | None:
        """What the catalogue knows of the model, by whichever name it was given."""
        from clipcls.encoders.catalogue import find

        prefix = {"hub": "hf-hub:", "hf": "hf:"}.get(self.kind, "")
        return find(STARTER if self.is_starter else prefix + self.target)

    @property
    def is_starter(self) -> bool:
        """Whether it is the model that comes with clipcls, by whichever name."""
        return self.target == str(STARTER_FOLDER)


def parse_spec(given: str) -> ModelSpec:
    """Understand a model's name; nothing is loaded or asked of a network.

    An alias, or the name of an imported model, is the same model everywhere: a folder of that name is written
    ``./NAME``. ``./`` or an existing folder means a path, any other ``a/b`` is ``ARCH/TAG``.

    Raises:
        ModelError: the name fits none of the forms, or the folder holds no model.
    """
    if given == STARTER:
        return ModelSpec(given, "folder", str(STARTER_FOLDER))
    if not given.strip():
        raise ModelError("the model's name is empty: use an alias (clipcls models list), ARCH/TAG or a folder")
    if given.startswith("hf-hub:"):
        return ModelSpec(given, "hub", _repository(given, "hf-hub:"))
    if given.startswith("hf:"):
        return _for_transformers(given)
    if "/" not in given and (found := _by_alias(given)):
        return found
    if folder := imported_folder(given):
        return _folder(given, folder)
    path = _path(given.removeprefix("local-dir:"))
    if given.startswith(("local-dir:", ".", "~", os.sep)) or path.is_dir():
        return _folder(given, path)
    if given.count("/") == 1 and all(given.split("/")):
        return ModelSpec(given, "tag", given)
    raise ModelError(f"unknown model {given!r}{_advice(given)}")


def _by_alias(given: str) -> ModelSpec | None:
    from clipcls.encoders.catalogue import find

    entry = find(given)
    return replace(parse_spec(entry.spec), given=given) if entry else None


def models_folder() -> Path:
    """Where ``clipcls models import`` keeps models, each in a folder of its name."""
    import platformdirs

    return Path(platformdirs.user_data_dir("clipcls", appauthor=False), "models")


def imported_folder(name: str) -> Path | None:
    """The folder of a model that was imported under this name; None where there is none."""
    folder = models_folder() / name
    return folder if MODEL_NAME.fullmatch(name) and folder.is_dir() else None


def imported_names() -> list[str]:
    """The names of all imported models."""
    folder = models_folder()
    return sorted(each.name for each in folder.iterdir() if imported_folder(each.name)) if folder.is_dir() else []


def _repository(given: str, prefix: str) -> str:
    repo = given.removeprefix(prefix)
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ModelError(f"{given!r}: a model on the hub is written {prefix}ORGANISATION/REPOSITORY")
    return repo


def _for_transformers(given: str) -> ModelSpec:
    """``hf:`` and a repository, or a folder that begins with ``/``, ``.`` or ``~``."""
    place = given.removeprefix("hf:")
    if not place.startswith((".", "~", os.sep)) and not Path(place).is_absolute():
        return ModelSpec(given, "hf", _repository(given, "hf:"))
    path = _path(place)
    _check_folder(path)
    config, *pictures = ((path / name).is_file() for name in (*_HF_NAMES, "processor_config.json"))
    if not config or not any(pictures):
        other = f"; as an open_clip model it is written {place}" if (path / CONFIG_NAME).is_file() else ""
        raise ModelError(f"{path} is not a model folder for transformers: it must hold {_HF_WANTED}{other}")
    return ModelSpec(given, "hf", os.path.abspath(path))


def _folder(given: str, path: Path) -> ModelSpec:
    _check_folder(path)
    if (path / CONFIG_NAME).is_file():
        return ModelSpec(given, "folder", os.path.abspath(path))
    if all((path / name).is_file() for name in _HF_NAMES):
        return ModelSpec(given, "hf", os.path.abspath(path))
    raise ModelError(f"{path} is not a model folder: it holds no {CONFIG_NAME}, nor {_HF_WANTED} for transformers")


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise ModelError(f"no model folder {path}: it does not exist; check the path, or see clipcls models list")


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:  # a person without a home, such as ~nobody-here
        raise ModelError(f"no model folder {text}: {exc}") from exc


def _advice(given: str) -> str:
    from clipcls.encoders.catalogue import near

    if question := near(given):
        return f"; {question} (clipcls models list shows all)"
    return (
        ": use an alias (clipcls models list), ARCH/TAG such as xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k, "
        "hf-hub:ORGANISATION/REPOSITORY, or the path of a model folder"
    )
