"""Which of a model's files are on this machine's disk: told without a network, torch or open_clip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from clipcls.encoders.catalogue import FIGURES, Entry
from clipcls.encoders.files import TOKENIZER, stated_languages, unknown_architecture, unknown_weights
from clipcls.encoders.spec import CONFIG_NAME, ModelSpec, imported_names, models_folder
from clipcls.encoders.tags import architecture, architectures, tag, tags
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


def imported() -> tuple[Entry, ...]:
    """What is known of each imported model, as of those in the catalogue."""
    return tuple(
        Entry(
            alias=name,
            spec=name,
            languages=stated_languages(_read(models_folder() / name / CONFIG_NAME)),
            description="imported",
            licence="",
            packages=(),
            source={},
            **dict.fromkeys(FIGURES),
        )
        for name in imported_names()
    )


def cache_folder(repo: str) -> Path:
    """Where huggingface_hub keeps a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "--".join(("models", *repo.split("/"))))


def commit_on_disk(repo: str) -> str | None:
    """The commit of a repository that is in use, in the hub's cache; None if nothing was downloaded."""
    try:
        return (cache_folder(repo) / "refs" / "main").read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _of_tag(arch: str, name: str) -> Iterator[Part]:
    known, shape = tag(arch, name), architecture(arch)
    if shape is None:
        raise unknown_architecture(arch, name, architectures())
    if known is None:
        raise unknown_weights(arch, name, list(tags(arch)))
    yield from _texts(_table(shape, "text_cfg"), None)
    repo, _, file = known["hf_hub"].rpartition("/")
    if not repo:
        raise ModelError(f"open_clip names no hub repository for {arch}/{name}")
    stem = Path(file).stem or "open_clip"
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
    commit = commit_on_disk(repo)
    return cache_folder(repo) / "snapshots" / commit if commit else None


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
