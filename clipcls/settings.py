"""One frozen Settings: flag > environment > project file > user file > default.

The project file is ``clipcls.toml`` in the current folder, the user file ``config.toml`` in the user's configuration
folder; both hold the same keys, such as ``model = "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"``. The environment
variables are the same names in capitals with ``CLIPCLS_`` in front.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import platformdirs

from clipcls.decode import MAX_PIXELS
from clipcls.errors import OutputError, UsageError
from clipcls.records import Precision
from clipcls.textfile import parse_structured, read_text

if TYPE_CHECKING:
    from clipcls.loading import Limits

TRACED = "traced"
"""In the cache folder, what is traced of models."""
PROJECT_FILE = Path("clipcls.toml")
"""In the current folder."""
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|mps")

_KINDS = {"str": "a string", "int": "a whole number", "bool": "true or false"}
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

_MODEL = re.compile(
    r"""^([ \t]*(?:model|"model"|'model')[ \t]*=[ \t]*)(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')""", re.MULTILINE
)
"""A line of TOML that sets the model."""


def default_cache_dir() -> str:
    """The user's cache folder for clipcls."""
    return platformdirs.user_cache_dir("clipcls", appauthor=False)


def user_file() -> Path:
    """The user's settings file, whether it is there or not."""
    return Path(platformdirs.user_config_dir("clipcls", appauthor=False)) / "config.toml"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person may set once instead of on every command line."""

    model: str = "starter"
    """Any spec that ``load_encoder`` takes."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, fp32, bf16, fp16 or int8."""
    prompts: tuple[str, ...] = ()
    """Prompt sets, files or templates; empty lets each label's script choose."""
    batch_size: int = 0
    """Images in one pass of the image tower; 0 means what suits the device."""
    workers: int = 0
    """Threads that read and decode images; 0 takes the cores at hand."""
    max_pixels: int = MAX_PIXELS
    """Of one picture; more is not decoded."""
    time_limit: int = 60
    """Seconds that a run waits for one picture to be decoded."""
    cache_dir: str = ""
    """Folder of the embedding store; empty means the user's cache folder."""
    trace: bool = True
    """Whether models are traced when first used on the CPU, to run without torch from then on."""

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise UsageError(f"unknown device {self.device!r}: use auto, cpu, cuda, cuda:N or mps")
        if self.precision not in ("auto", *get_args(Precision)):
            raise UsageError(f"unknown precision {self.precision!r}: use auto, {', '.join(get_args(Precision))}")
        for name in ("batch_size", "workers"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name.replace('_', '-')} must be 1 or more, or 0 for the default")
        for name in ("max_pixels", "time_limit"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} must be 1 or more")

    @property
    def cache_folder(self) -> Path:
        """The folder of the embedding store."""
        return Path(self.cache_dir or default_cache_dir()).expanduser()

    @property
    def limits(self) -> Limits:
        """What one picture may cost."""
        from clipcls.loading import Limits

        return Limits(self.max_pixels, self.time_limit)

    @property
    def traced_folder(self) -> Path | None:
        """The folder that keeps what is traced of models; None where none are to be traced."""
        return self.cache_folder / TRACED if self.trace else None

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None) -> Settings:
        """Settings from every place; ``flags`` come first, where a value of None says nothing.

        Raises:
            UsageError: a value is unknown or of the wrong kind; the message names the place.
        """
        merged = {key: value for key, (value, _) in _everywhere().items()}
        merged |= {key: value for key, value in (flags or {}).items() if value is not None}
        return cls(**merged)


def origins() -> dict[str, tuple[Any, str]]:
    """Every setting's value, and where it comes from: a file, an environment variable, or ``default``.

    Raises:
        UsageError: a value is unknown or of the wrong kind; the message names the place.
    """
    plain = Settings()
    return {field.name: (getattr(plain, field.name), "default") for field in fields(Settings)} | _everywhere()


def _everywhere() -> dict[str, tuple[Any, str]]:
    """What is set, and where; of several places the one that wins."""
    found: dict[str, tuple[Any, str]] = {}
    for file in (user_file(), PROJECT_FILE):
        found |= {key: (value, str(file)) for key, value in _from_file(file).items()}
    return found | {key: (value, _variable(key)) for key, value in _from_environment().items()}


def _variable(key: str) -> str:
    return f"CLIPCLS_{key.upper()}"


def save_model(path: Path, model: str) -> None:
    """Make a model the default of a settings file, and leave everything else in it as it is, comments too.

    Raises:
        UsageError: the file is not valid, or writes its model in a way that cannot be changed safely.
        OutputError: the file cannot be written.
    """
    import tomli_w

    from clipcls.sinks.durable import write_whole

    path = path.resolve()  # the file behind a link, not the link
    old, line_end = "", "\n"
    if path.is_file():
        old = read_text(path, "settings")
        line_end = "\r\n" if b"\r\n" in path.read_bytes() else "\n"
    line = tomli_w.dumps({"model": model}).strip()
    known = parse_structured(old, path)
    new = _with_line(old, line, known)
    if _parsed(new) != known | {"model": model}:
        raise UsageError(f"{path} writes its model in an unusual way: change it by hand to {line}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, new.replace("\n", line_end))
    except (OSError, ValueError) as exc:
        raise OutputError(f"{path} cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc


def _with_line(text: str, line: str, known: Mapping[str, Any]) -> str:
    """The text with a line that sets the model: where the old one was, else at the end of what no table holds."""
    if "model" in known:
        return _MODEL.sub(lambda found: f"{found[1]}{line.partition('= ')[2]}", text, count=1)
    if any(isinstance(value, dict) for value in known.values()):
        return f"{line}\n{text}"
    return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n"


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    table = parse_structured(read_text(path, "settings"), path)
    return {key: _checked(key, value, f"{path}: {key}") for key, value in table.items()}


def _from_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(Settings):
        variable = _variable(field.name)
        text = os.environ.get(variable)
        if text:
            value: Any = int(text) if field.type == "int" and text.isdecimal() else text
            if field.type == "bool":
                value = _SWITCHES.get(text.lower(), text)
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
        case "bool", bool():
            pass
        case kind, _:
            kind_name = _KINDS.get(str(kind), "a string or a list of strings")
            raise UsageError(f"{place}: must be {kind_name}")
    try:
        Settings(**{key: value})
    except UsageError as exc:
        raise UsageError(f"{place}: {exc}") from exc
    return value
