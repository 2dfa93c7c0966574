"""One frozen Settings: flag > environment > project file > user file > default.

The project file is ``clipcls.toml`` in the current folder, the user file ``config.toml`` in the user's configuration
folder; both hold the same keys, such as ``model = "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"``. The environment
variables are the same names in capitals with ``CLIPCLS_`` in front.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import platformdirs

from clipcls.errors import UsageError
from clipcls.textfile import parse_structured, read_text

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|mps")


def default_cache_dir() -> str:
    """The user's cache folder for clipcls."""
    return platformdirs.user_cache_dir("clipcls", appauthor=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person may set once instead of on every command line."""

    model: str = "starter"
    """Any spec that ``load_encoder`` takes."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    prompts: tuple[str, ...] = ()
    """Prompt sets, files or templates; empty lets each label's script choose."""
    batch_size: int = 0
    """Images in one pass of the image tower; 0 means what suits the device."""
    workers: int = 0
    """Threads that read and decode images; 0 takes the cores at hand."""
    cache_dir: str = ""
    """Folder of the embedding store; empty means the user's cache folder."""

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise UsageError(f"unknown device {self.device!r}: use auto, cpu, cuda, cuda:N or mps")
        for name in ("batch_size", "workers"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name.replace('_', '-')} must be 1 or more, or 0 for the default")

    @property
    def cache_folder(self) -> Path:
        """The folder of the embedding store."""
        return Path(self.cache_dir or default_cache_dir()).expanduser()

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None) -> Settings:
        """Settings from every place; ``flags`` come first, where a value of None says nothing.

        Raises:
            UsageError: a value is unknown or of the wrong kind; the message names the place.
        """
        user_file = Path(platformdirs.user_config_dir("clipcls", appauthor=False)) / "config.toml"
        merged = _from_file(user_file) | _from_file(Path("clipcls.toml")) | _from_environment()
        merged |= {key: value for key, value in (flags or {}).items() if value is not None}
        return cls(**merged)


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    table = parse_structured(read_text(path, "settings"), path)
    return {key: _checked(key, value, f"{path}: {key}") for key, value in table.items()}


def _from_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(Settings):
        variable = f"CLIPCLS_{field.name.upper()}"
        text = os.environ.get(variable)
        if text:
            value: Any = int(text) if field.type == "int" and text.isdecimal() else text
            found[field.name] = _checked(field.name, value, variable)
    return found


def _checked(key: str, value: Any, place: str) -> Any:
    """The value as ``Settings`` holds it."""
    kinds = {field.name: field.type for field in fields(Settings)}
    match kinds.get(key), value:
        case None, _:
            raise UsageError(f"{place}: unknown setting; known are {', '.join(kinds)}")
        case "tuple[str, ...]", str():
            value = (value,)
        case "tuple[str, ...]", list() if all(isinstance(item, str) for item in value):
            value = tuple(value)
        case ("str", str()) | ("int", int()) if not isinstance(value, bool):
            pass
        case kind, _:
            kind_name = {"str": "a string", "int": "a whole number"}.get(str(kind), "a string or a list of strings")
            raise UsageError(f"{place}: must be {kind_name}")
    try:
        Settings(**{key: value})
    except UsageError as exc:
        raise UsageError(f"{place}: {exc}") from exc
    return value
