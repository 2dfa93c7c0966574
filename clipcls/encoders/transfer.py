"""Whole models on their way: from a hub to this disk, into a folder, and from a folder to where a name finds it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clipcls.encoders import file_digest
from clipcls.encoders.catalogue import find
from clipcls.encoders.files import TEXT_CONFIG, TOKENIZER, WEIGHTS, ModelFiles
from clipcls.encoders.locate import locate
from clipcls.encoders.ondisk import parts
from clipcls.encoders.spec import (
    CONFIG_NAME,
    MODEL_NAME,
    ModelSpec,
    imported_folder,
    imported_names,
    models_folder,
    parse_spec,
)
from clipcls.encoders.traced import NAMES, files_of, ready, refusal
from clipcls.errors import InputError, ModelError, OutputError, UsageError
from clipcls.records import Precision

SUMS = "SHA256SUMS"
"""In an exported folder what its files must be, as ``sha256sum --check`` reads it."""
_SUM = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
"""The star is of ``sha256sum --binary``."""
_TERMS = re.compile(r"LICEN[SC]E|NOTICE|README\.md$", re.IGNORECASE)
"""How the files begin that go wherever the model goes."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """A model that is now whole where it was to go."""

    files: int
    size: int
    """In bytes."""
    folder: Path
    """Where its weights are."""


def pull(model: str, *, renew: bool = False, traced: Path | None = None) -> Transferred:
    """Get all that a model needs onto this disk; what is there already is not asked for.

    ``following`` tells how far it is.

    Args:
        model: any name that ``load_encoder`` takes.
        renew: whether to take the newest commits of its repositories instead of those on disk.
        traced: the folder that keeps what is traced of models; weights that are pickled are converted there.

    Raises:
        ModelError: the model is unknown or incomplete, or cannot be had.
        UsageError: it is to be renewed, and no network is wanted.
    """
    if renew:
        _renew(parse_spec(model))
    files = _fetched(model)
    paths = _parts(files)
    if files.weights[0].suffix != ".safetensors":
        _graphs(parse_spec(model), files, traced)
    return Transferred(len(paths), sum(path.stat().st_size for path in paths), files.weights[0].parent)


def trace(model: str, precision: Precision, home: Path) -> Path:
    """Make a model ready to run without torch; gives the folder of its graphs.

    Args:
        model: any name that ``load_encoder`` takes; what is not on disk is downloaded.
        precision: fp32 or int8.
        home: the folder that keeps what is traced of models.

    Raises:
        ModelError: the model is unknown or incomplete, or cannot be had; or cannot be traced.
    """
    spec = parse_spec(model)
    files = _fetched(model)
    if files.traced and precision == "fp32":
        return files.traced
    fingerprint = files.fingerprint(NAMES[precision], file_digest)
    found = ready(spec, files, precision, fingerprint, home)
    if found is None:
        reason = refusal(home, fingerprint) or "tracing it failed"
        raise ModelError(f"{model} runs through torch and not without: {reason}")
    return found.folder


def export(model: str, folder: Path, *, traced: Path | None = None) -> Transferred:
    """Write a folder that needs nothing else: ``--model FOLDER`` takes it on a machine without a network.

    Args:
        model: any name that ``load_encoder`` takes; what is not on disk is downloaded.
        folder: must not exist, or be empty; it appears when all is there.
        traced: the folder that keeps what is traced of models: with it the graphs go along that do without torch.

    Raises:
        UsageError: there is something in the folder's place.
        ModelError: the model is unknown or incomplete, or cannot be had.
        OutputError: the folder cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # the folder behind a link takes the files
    _check_free(folder)
    spec = parse_spec(model)
    files = _fetched(model)
    return _write(_contents(files, spec.languages, _graphs(spec, files, traced)), folder)


def import_(folder: Path, name: str | None = None) -> tuple[str, Transferred]:
    """Copy an exported folder to where ``--model NAME`` finds it.

    Args:
        folder: what ``export`` wrote, or any model folder that needs nothing else.
        name: what to call it; None takes the folder's own name.

    Returns:
        The name, and what was copied.

    Raises:
        InputError: there is no such folder.
        UsageError: the name cannot be one, or is taken.
        ModelError: the folder holds no model, lacks a part of it, or holds a damaged file.
        OutputError: the copy cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give the one that clipcls models export wrote")
    name = folder.name if name is None else name
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(f"a model cannot be called {name!r}: give --name letters, digits, dots and dashes")
    if find(name):
        raise UsageError(f"{name} is another model's name (clipcls models list): give another --name")
    target = models_folder() / name
    if target.exists():
        raise UsageError(f"there is a model {name} already: give another --name, or delete {target}")
    _check_sums(folder)
    spec = parse_spec(str(folder))
    for part in parts(spec):
        if part.place not in (str(folder), TOKENIZER):
            raise ModelError(
                f"{folder} needs the {part.what} of {part.place}, which is not in it: "
                f"write a whole folder with clipcls models export {folder} DIR where there is a network"
            )
    files = locate(spec)
    return name, _write(_contents(files, spec.languages, _graphs(spec, files, None)), target)


def remove(name: str) -> Path:
    """Delete an imported model; gives the folder that it was in.

    Raises:
        UsageError: there is none of this name.
        OutputError: it cannot be deleted.
    """
    folder = removable(name)
    try:
        shutil.rmtree(folder)
    except OSError as exc:
        raise OutputError(f"cannot delete {folder}: {exc}; delete it by hand") from exc
    return folder


def removable(name: str) -> Path:
    """The folder of an imported model.

    Raises:
        UsageError: there is none of this name.
    """
    folder = imported_folder(name)
    if folder is None:
        known = ", ".join(imported_names()) or "none"
        raise UsageError(f"{name!r} is not an imported model, and only those can be removed; imported are: {known}")
    return folder


def _renew(spec: ModelSpec) -> None:
    """Take every repository of a model to its newest commit, those too that only its new configuration names."""
    from clipcls.encoders.hub import renew

    asked: set[str] = set()
    while new := {part.place for part in parts(spec)} - asked:
        renew(sorted(new))
        asked |= new
        locate(spec)


def _fetched(model: str) -> ModelFiles:
    """A model's files, all of them on disk, and nothing else of theirs in the hub's cache."""
    from clipcls.encoders.download import sweep

    files = locate(parse_spec(model))
    # .../models--ORG--REPO/snapshots/COMMIT/NAME
    for home in dict.fromkeys(path.parent.parent.parent for path in _parts(files)):
        sweep(home)
    return files


def _parts(files: ModelFiles) -> list[Path]:
    """All the files of a model, wherever they are."""
    other = (path for path in files.landmarks if path.parent == files.weights[0].parent and path.is_file())
    return list(dict.fromkeys((*files.weights, *files.text_files(), *other)))


def _graphs(spec: ModelSpec, files: ModelFiles, home: Path | None) -> list[Path]:
    """What was traced of a model, or now is; nothing if it cannot be."""
    if files.traced or home is None:
        return files_of(files.traced) if files.traced else []
    traced = ready(spec, files, "fp32", files.fingerprint("fp32", file_digest), home)
    return files_of(traced.folder) if traced else []


def _contents(files: ModelFiles, languages: tuple[str, ...], graphs: list[Path]) -> dict[str, Path | str]:
    """By its name in a folder of its own each file's source, or its text.

    Args:
        files: the model's.
        languages: what is known of them elsewhere.
        graphs: what was traced of it.
    """
    beside = sorted(path for path in files.weights[0].parent.iterdir() if path.is_file())
    terms: dict[str, Path | str] = {path.name: path for path in beside if _TERMS.match(path.name)}
    terms |= {path.name: path for path in graphs}
    if not Path(files.name).is_absolute():
        return terms | _open_clip_contents(files, languages or files.languages)
    return terms | {path.name: path for path in _parts(files)}  # transformers' files fit each other by name


def _open_clip_contents(files: ModelFiles, languages: tuple[str, ...]) -> dict[str, Path | str]:
    apart = files.text_folder and files.tokenizer_folder not in (None, files.text_folder)
    config = {
        "model_cfg": files.placed_cfg(".", TOKENIZER if apart else "."),
        "preprocess_cfg": files.preprocess_cfg,
    } | ({"languages": languages} if languages else {})
    contents: dict[str, Path | str] = {CONFIG_NAME: json.dumps(config, indent=2, ensure_ascii=False)}
    for path in files.text_files():
        if apart and path.parent == files.tokenizer_folder:
            contents[f"{TOKENIZER}/{path.name}"] = path
        elif not apart or path.name == TEXT_CONFIG:
            contents[path.name] = path
    for path in files.weights:
        # By the names that open_clip looks for, unless several were there to choose from.
        single = WEIGHTS if path.suffix == ".safetensors" else f"open_clip_pytorch_model{path.suffix}"
        contents[single if len(files.weights) == 1 else path.name] = path
    return contents


def _check_free(folder: Path) -> None:
    try:
        taken = os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as exc:
        raise _not_written(folder, exc) from exc
    if taken:
        raise UsageError(f"{folder} exists and stays as it is: name another folder, or move it away")
    if os.path.ismount(folder):  # which nothing can take the place of
        raise OutputError(f"{folder} is a disk of its own: name a folder in it")


def _write(contents: Mapping[str, Path | str], folder: Path) -> Transferred:
    """A folder that is there whole or not at all."""
    draft = folder.with_name(f".{folder.name}.clipcls-partial")
    try:
        shutil.rmtree(draft, ignore_errors=True)  # of a run that was cut off
        draft.mkdir(parents=True)
        for name, source in contents.items():
            _place(source, draft / name)
        sums = "".join(f"{file_digest(draft / name)}  {name}\n" for name in contents)
        (draft / SUMS).write_text(sums, encoding="utf-8", newline="")
        with suppress(FileNotFoundError):
            folder.rmdir()  # it is empty
        draft.rename(folder)
    except OSError as exc:
        raise _not_written(folder, exc) from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    paths = [folder / name for name in contents]
    return Transferred(len(paths), sum(path.stat().st_size for path in paths), folder)


def _not_written(folder: Path, exc: OSError) -> OutputError:
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some room, or choose another place" if full else "choose a place where you may write"
    return OutputError(f"cannot write {folder}: {exc}; {advice}")


def _place(source: Path | str, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if isinstance(source, str):
        target.write_text(source, encoding="utf-8", newline="")
    else:
        shutil.copyfile(source, target)  # no link: whoever writes to one would write to the other


def _check_sums(folder: Path) -> None:
    """Compare what a folder says its files are with what they are; nothing where it does not say."""
    if not (folder / SUMS).is_file():
        return
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise ModelError(f"{folder / SUMS} cannot be read: {exc}; copy the folder again, or export it again") from exc
    for number, line in enumerate(lines, 1):
        said = _SUM.fullmatch(line)
        if said is None:
            raise ModelError(f"{folder / SUMS}, line {number}: it is no line of sha256sum; export the folder again")
        path = folder / said["name"]
        if not path.is_file() or file_digest(path) != said["digest"].lower():
            state = "damaged" if path.is_file() else "missing"
            raise ModelError(f"{path} is {state}, by {SUMS} beside it: copy the folder again, or export it again")
