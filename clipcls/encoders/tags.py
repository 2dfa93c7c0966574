"""open_clip's own tables of architectures and weights, without the package, whose import takes torch and seconds."""

from __future__ import annotations

import ast
import copy
import importlib.metadata
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from clipcls.errors import ModelError

Config = dict[str, Any]


def open_clip_folder() -> Path:
    """Where open_clip is installed."""
    package = importlib.util.find_spec("open_clip")
    assert package and package.origin
    return Path(package.origin).parent


def open_clip_module(name: str) -> ModuleType:
    """One module of open_clip by its file, without the package."""
    spec = importlib.util.spec_from_file_location(name, open_clip_folder() / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def architectures() -> list[str]:
    """The names of all architectures."""
    return sorted({path.stem for path in _shapes().glob("*.json")} | set(_live().list_models() if _live() else ()))


def architecture(name: str) -> Config | None:
    """An architecture's configuration, the caller's to change; None where open_clip knows none of the name."""
    path = _shapes() / f"{name}.json"
    if path.is_file() and path.parent == _shapes():
        found: Config = json.loads(path.read_text(encoding="utf-8"))
        return found
    live = _live()
    return live.get_model_config(name) if live else None


def tags(arch: str) -> dict[str, Config]:
    """What open_clip knows of an architecture's weights, by their names."""
    live = _live()
    added: dict[str, Config] = live.pretrained._PRETRAINED.get(arch, {}) if live else {}
    return _tags().get(arch, added)


def tag(arch: str, name: str) -> Config | None:
    """What open_clip knows of an architecture's weights of this name; None where it knows none."""
    return tags(arch).get(name.lower().replace("-", "_"))


def _live() -> Any:
    """The package, where somebody has imported it, and may have added models of their own."""
    return sys.modules.get("open_clip")


@cache
def _tags() -> dict[str, dict[str, Config]]:
    """open_clip's table of weights by architecture and tag.

    Of the module that holds it, only the table and what makes its rows are run.

    Raises:
        ModelError: this version of open_clip is written in another way.
    """
    try:
        table = _run_table()
        repos = [known["hf_hub"] for by_tag in table.values() for known in by_tag.values()]
        if not repos or not all(isinstance(repo, str) for repo in repos):
            raise TypeError("its table of weights names no repositories")
    except Exception as exc:  # whatever code that nobody here has seen may raise
        version = importlib.metadata.version("open_clip_torch")
        raise ModelError(
            f"the installed open_clip {version} is not understood ({type(exc).__name__}: {exc}): "
            f"install one that is with pip install 'open_clip_torch>=3.3,<4'"
        ) from exc
    return table


def _shapes() -> Path:
    return open_clip_folder() / "model_configs"


def _run_table() -> dict[str, dict[str, Config]]:
    source = (open_clip_folder() / "pretrained.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.For | ast.Expr)
        or (isinstance(node, ast.FunctionDef) and node.name.endswith("cfg") and node.name.startswith("_"))
    ]
    names: dict[str, Any] = vars(open_clip_module("constants")) | {"copy": copy}
    exec(compile(tree, "open_clip/pretrained.py", "exec"), names)
    table: dict[str, dict[str, Config]] = names["_PRETRAINED"]
    return table
