"""Which of a model's files are on this machine's disk: told without a network, torch or open_clip."""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from clipcls.encoders.files import TOKENIZER
from clipcls.encoders.spec import CONFIG_NAME, ModelSpec
from clipcls.errors import ModelError

_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", ".model")


@dataclass(frozen=True, slots=True)
class Part:
    """One of the files that a model is made of."""

    what: str
    """configuration, text tower, tokenizer or weights."""
    place: str
    """The hub repository or folder that it comes from."""
    path: Path | None
    """Where it lies; None where it is not on disk."""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size if self.path else 0


def parts(spec: ModelSpec) -> tuple[Part, ...]:
    """The files of a model, the weights last, as far as is known without asking a hub.

    Raises:
        ModelError: open_clip knows no such architecture or weights.
    """
    if spec.kind == "hf":
        return tuple(_for_transformers(spec.target))
    if spec.kind == "tag":
        return tuple(_of_tag(*spec.target.split("/")))
    return tuple(_with_config(spec.target))


def on_disk(found: tuple[Part, ...]) -> Literal["yes", "partly", "no"]:
    """Whether a model can be used without a download."""
    there = [part.path is not None for part in found]
    return "yes" if all(there) else "partly" if any(there) else "no"


def _of_tag(arch: str, tag: str) -> Iterator[Part]:
    tags, shape = _tags().get(arch), _open_clip() / "model_configs" / f"{arch}.json"
    if not shape.is_file():
        raise ModelError(f"open_clip knows no architecture {arch!r}; for a hub repository write hf-hub:{arch}/{tag}")
    known = (tags or {}).get(tag.lower().replace("-", "_"))
    if known is None:
        raise ModelError(f"open_clip knows no weights {tag!r} of {arch}; known are {', '.join(tags or ()) or 'none'}")
    yield from _texts(_read(shape)["text_cfg"], None)
    repo, _, name = known["hf_hub"].rpartition("/")
    if not repo:
        raise ModelError(f"open_clip names no hub repository for {arch}/{tag}")
    stem = Path(name).stem or "open_clip"
    yield _part("weights", repo, lambda path: path.suffix in _WEIGHTS and path.name.startswith(stem))


def _with_config(place: str) -> Iterator[Part]:
    """Parts of a folder or repository that open_clip reads."""
    config = _part("configuration", place, _named(CONFIG_NAME))
    yield config
    yield from _texts(_table(_table(_read(config.path), "model_cfg"), "text_cfg"), place)
    own = "" if Path(place).is_absolute() else "open_clip"
    yield _part("weights", place, lambda path: path.suffix in _WEIGHTS and path.name.startswith(own))


def _texts(text_cfg: dict[str, Any], own: str | None) -> Iterator[Part]:
    """What a Hugging Face text tower and tokenizer need: the model's own files, else a repository's."""
    wanted = (
        ("text tower", text_cfg.get("hf_model_name"), _named("config.json")),
        ("tokenizer", text_cfg.get("hf_tokenizer_name"), _is_tokenizer),
    )
    for what, name, fits in wanted:
        if not name or not isinstance(name, str):
            continue
        relative = name.startswith((".", "/"))
        beside = _part(what, own, fits) if own and (relative or Path(own).is_absolute()) else None
        if beside and what == name == TOKENIZER:  # as clipcls models export writes it; told to be of the whole folder
            beside = replace(beside, path=_part(what, f"{own}/{TOKENIZER}", fits).path)
        yield beside if beside and (beside.path or relative) else _part(what, name, fits)


def _for_transformers(place: str) -> Iterator[Part]:
    yield _part("configuration", place, _named("config.json"))
    yield _part("preprocessing", place, _named("preprocessor_config.json", "processor_config.json"))
    yield _part("tokenizer", place, _is_tokenizer)
    index = _part("weights", place, _named("model.safetensors.index.json", "pytorch_model.bin.index.json"))
    if index.path:
        for name in sorted(set(map(str, _table(_read(index.path), "weight_map").values()))):
            yield _part("weights", place, _named(name))
    else:
        yield _part("weights", place, _named("model.safetensors", "pytorch_model.bin"))


def _part(what: str, place: str, fits: Callable[[Path], bool]) -> Part:
    folder = Path(place) if Path(place).is_absolute() else _snapshot(place)
    # Links whose file is gone are no files.
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder and folder.is_dir() else []
    # Safetensors come before pickles, as everywhere.
    files.sort(key=lambda path: path.suffix not in (".safetensors", ".json"))
    return Part(what, place, next(filter(fits, files), None))


def _snapshot(repo: str) -> Path | None:
    """The folder of a repository's commit in use, in the hub's cache."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, "--".join(("models", *repo.split("/"))))
    try:
        return folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def _named(*names: str) -> Callable[[Path], bool]:
    return lambda path: path.name in names


def _is_tokenizer(path: Path) -> bool:
    return path.name.endswith(_TOKENIZER)


def _table(table: dict[str, Any], name: str) -> dict[str, Any]:
    inner = table.get(name)
    return inner if isinstance(inner, dict) else {}


def _read(path: Path | None) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


@cache
def _tags() -> dict[str, dict[str, dict[str, Any]]]:
    """open_clip's table of weights by architecture and tag, without the package, whose import takes torch and seconds.

    Of the module that holds it, only the table and what makes its rows are run.
    """
    source = (_open_clip() / "pretrained.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.For | ast.Expr)
        or (isinstance(node, ast.FunctionDef) and node.name.endswith("cfg") and node.name.startswith("_"))
    ]
    names: dict[str, Any] = vars(_module("constants")) | {"copy": copy}
    exec(compile(tree, "open_clip/pretrained.py", "exec"), names)
    tags: dict[str, dict[str, dict[str, Any]]] = names["_PRETRAINED"]
    return tags


def _open_clip() -> Path:
    package = importlib.util.find_spec("open_clip")
    assert package and package.origin
    return Path(package.origin).parent


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, _open_clip() / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
