"""Where a transformers model's parts lie: in a folder as ``save_pretrained`` writes it, or a hub repository of such."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipcls.encoders.files import TEXT_CONFIG, Config, ModelFiles, tokenizer_folder, traced_folder
from clipcls.encoders.limits import check_sizes
from clipcls.encoders.spec import CONFIG_NAME, ModelSpec
from clipcls.errors import ModelError

_PICTURES = ("preprocessor_config.json", "processor_config.json")
"""What is done to a picture: alone, or together with what is done to texts. Where both are there, both are read."""
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which transformers looks for them; an index names the files that the weights were split into."""

_SHARD = re.compile(r"\w[\w.-]*\.(safetensors|bin)")
"""A name that leads nowhere else, on any system."""

_TABLE = "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES"
"""What transformers calls its table of zero-shot image classifiers by type of model."""
_UNFIT = {
    "auto_map": "it brings code of its own, which is never run",
    "quantization_config": "its weights are quantised",
    "transformers_weights": "its weights go by a name of their own",
}
"""Settings with which transformers would not simply read the files beside it."""


def locate_hf(spec: ModelSpec) -> ModelFiles:
    """Find a transformers model's files, downloading what is missing; the weights last, since they are large.

    Raises:
        ModelError: the model is unknown, incomplete, of a kind that cannot be used, or cannot be downloaded.
    """
    folder = Path(spec.target) if Path(spec.target).is_absolute() else None
    find = _in_folder(folder) if folder else _on_hub(spec.target)
    config = find((TEXT_CONFIG,))
    if config is None:
        advice = "choose a repository or folder that save_pretrained wrote"
        if find((CONFIG_NAME,)):
            advice = f"as an open_clip model it is written {'' if folder else 'hf-hub:'}{spec.target}"
        raise ModelError(f"{spec.target} is no model for transformers, it holds no {TEXT_CONFIG}: {advice}")
    model_cfg = _read(config)
    _check_fit(config, model_cfg)
    check_sizes(config, model_cfg)
    _check_type(spec.target, model_cfg)
    pictures = _picture_files(spec.target, folder, find)
    texts = tokenizer_folder("." if folder else spec.target, own=folder)
    assert texts
    for path in (*pictures, texts / "tokenizer_config.json"):
        if path.is_file():
            _check_fit(path, table := _read(path))
            check_sizes(path, table)
    if (config.parent / "adapter_config.json").exists():
        raise ModelError(f"{config.parent} holds an adapter to a model: merge the two and save the result as a folder")
    weights = find(_WEIGHTS)
    if weights is None:
        raise ModelError(f"{spec.target} holds no weights for transformers: none of {', '.join(_WEIGHTS)}; get it anew")
    parts = _parts(weights, find) if weights.suffix == ".json" else (weights,)
    return ModelFiles(
        name=os.path.abspath(config.parent),
        model_cfg=model_cfg,
        preprocess_cfg={path.name: _read(path) for path in pictures},
        weights=parts,
        text_folder=None,
        tokenizer_folder=texts,
        landmarks=(config.parent, config, *pictures, weights),
        traced=traced_folder(parts) if folder else None,
    )


Find = Callable[[Sequence[str]], Path | None]
"""The first of several files that is there, or that can be had."""


def _in_folder(folder: Path) -> Find:
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}: it does not exist")
    return lambda names: next((path for name in names if (path := folder / name).is_file()), None)


def _on_hub(repo: str) -> Find:
    from clipcls.encoders import hub

    return lambda names: hub.fetch_any(repo, names)


def _picture_files(place: str, folder: Path | None, find: Find) -> list[Path]:
    found: list[Path | None]
    if folder:
        found = [find((name,)) for name in _PICTURES]
    else:
        from clipcls.encoders import hub

        # Once the weights are on disk, which come last, so are all the others, and nothing more is asked for.
        whole = hub.on_disk(place, _WEIGHTS) and hub.on_disk(place, _PICTURES)
        get = hub.on_disk if whole else hub.fetch_any
        found = [get(place, (name,)) for name in _PICTURES]
    paths = [path for path in found if path]
    if not paths:
        raise ModelError(f"{place} does not say how to prepare pictures: it holds no {_PICTURES[0]}; get it anew")
    return paths


def _parts(index: Path, find: Find) -> tuple[Path, ...]:
    """The files that an index says the weights were split into."""
    try:
        names = sorted(set(_read(index)["weight_map"].values()))
        if not names or not all(_SHARD.fullmatch(name) for name in names):
            raise ValueError("it must name files beside it")
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise ModelError(f"{index} is not an index of weights: {exc}; get it anew") from exc
    parts = {name: find((name,)) for name in names}
    paths = tuple(path for path in parts.values() if path)
    if len(paths) < len(parts):
        missing = next(name for name, path in parts.items() if path is None)
        raise ModelError(f"{index} names the weights {missing}, which are not there: get the model anew")
    return paths


def _check_type(place: str, config: Config) -> None:
    """Refuse what transformers has no zero-shot image classifier for, before anything large is downloaded."""
    kind, served = config.get("model_type"), _served()
    if kind not in served:
        raise ModelError(
            f"{place} is a model of type {kind!r}, which transformers does not serve for zero-shot image "
            f"classification; it serves {', '.join(served)}"
        )


def _served() -> list[str]:
    """The types of model in transformers' own table, read without the module that holds it, which imports torch."""
    package = importlib.util.find_spec("transformers")
    assert package and package.origin
    tree = ast.parse(Path(package.origin).parent.joinpath("models/auto/modeling_auto.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == _TABLE:
            assert isinstance(node.value, ast.Call)
            return [kind for kind, _ in ast.literal_eval(node.value.args[0])]
    version = importlib.metadata.version("transformers")
    raise ModelError(
        f"the installed transformers {version} is not understood, it has no {_TABLE}: install transformers 5"
    )


def _check_fit(path: Path, table: Config) -> None:
    written = json.dumps(table)
    for setting, reason in _UNFIT.items():
        if f'"{setting}":' in written and f'"{setting}": null' not in written:
            raise ModelError(f"{path} sets {setting}, so the model cannot be used: {reason}; look for one without it")


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"{path} cannot be read: {exc}; get it anew") from exc
    if not isinstance(table, dict):
        raise ModelError(f"{path} cannot be read: it is no table of settings; get it anew")
    return table
