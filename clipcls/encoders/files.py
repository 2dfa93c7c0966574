"""Where a model's parts lie on disk: configuration, weights, text-tower configuration, tokenizer."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcls.encoders.spec import CONFIG_NAME, ENCODER_VERSION, ModelSpec
from clipcls.errors import ModelError
from clipcls.records import FileStamp

Config = dict[str, Any]

_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")
_TOKENIZER = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """All that ``open_clip.create_model`` needs, on this machine's disk."""

    name: str
    """Its first argument: ``local-dir:FOLDER``, or the name of an architecture."""
    model_cfg: Config
    preprocess_cfg: Config
    weights: tuple[Path, ...]
    """The checkpoint; where a folder holds several, all of them, since open_clip chooses."""
    text_folder: Path | None
    """Folder with the ``config.json`` of a Hugging Face text tower."""
    tokenizer_folder: Path | None
    """Folder with a Hugging Face tokenizer; None means CLIP's own BPE."""
    landmarks: tuple[Path, ...]
    """What else changes when another model takes this one's place."""

    @property
    def weights_by_name(self) -> bool:
        """Whether open_clip must be told the checkpoint and its preprocessing; in a folder it finds them."""
        return not self.name.startswith("local-dir:")

    def fingerprint(self, precision: str, digest: Callable[[Path], str]) -> str:
        """Identity of what is computed: weights, configuration, preprocessing, tokenizer, precision, code version."""
        parts = {
            "weights": [digest(path) for path in self.weights],
            "text": [digest(path) for path in self._text_files()],
            "model": self.model_cfg,
            "preprocess": self.preprocess_cfg,
            "precision": precision,
        }
        summed = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
        return f"{ENCODER_VERSION}-{summed[:40]}"

    def watched(self) -> tuple[FileStamp, ...]:
        """The files whose size or time of change tells that the model is no longer the same."""
        paths = dict.fromkeys((*self.weights, *self._text_files(), *self.landmarks))
        return tuple(FileStamp.of(path) for path in paths if path.exists())

    def _text_files(self) -> Iterable[Path]:
        folders = dict.fromkeys(folder for folder in (self.text_folder, self.tokenizer_folder) if folder)
        return [path for folder in folders for name in _TOKENIZER if (path := folder / name).is_file()]


def locate(spec: ModelSpec) -> ModelFiles:
    """Find a model's files, downloading what is missing.

    Raises:
        ModelError: the model is unknown, incomplete, or cannot be downloaded.
    """
    if spec.kind == "folder":
        return _in_folder(Path(spec.target))
    if spec.kind == "hub":
        return _on_hub(spec.target)
    return _by_tag(*spec.target.split("/"))


def _in_folder(folder: Path) -> ModelFiles:
    model_cfg, preprocess_cfg = _read_config(folder / CONFIG_NAME)
    weights = sorted(path for suffix in ("safetensors", "bin", "pth") for path in folder.glob(f"*.{suffix}"))
    if not weights:
        raise ModelError(f"{folder} holds no weights: a .safetensors, .bin or .pth file is missing")
    text_cfg = model_cfg["text_cfg"]
    return ModelFiles(
        name=f"local-dir:{folder}",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        weights=tuple(weights),
        text_folder=_text_folder(text_cfg, "hf_model_name", folder),
        tokenizer_folder=_text_folder(text_cfg, "hf_tokenizer_name", folder),
        # A file that is added to a folder changes the folder's own time.
        landmarks=(folder, folder / CONFIG_NAME),
    )


def _on_hub(repo: str) -> ModelFiles:
    from clipcls.encoders import hub

    config = hub.fetch(repo, CONFIG_NAME)
    if not any(hub.fetch_if_there(repo, name) for name in _WEIGHTS):
        raise ModelError(f"the hub repository {repo} holds none of {', '.join(_WEIGHTS)}")
    if "hf_tokenizer_name" in _read_config(config)[0]["text_cfg"]:
        _fetch_tokenizer(repo)
    files = _in_folder(config.parent)
    return ModelFiles(**{**_fields(files), "landmarks": (*files.landmarks, hub.revision_file(config))})


def _by_tag(arch: str, tag: str) -> ModelFiles:
    import open_clip

    from clipcls.encoders import hub

    model_cfg = open_clip.get_model_config(arch)
    if model_cfg is None:
        raise ModelError(f"open_clip knows no architecture {arch!r}{_close(arch, open_clip.list_models())}")
    tag_cfg = open_clip.get_pretrained_cfg(arch, tag)
    if not tag_cfg:
        tags = open_clip.list_pretrained_tags_by_model(arch)
        raise ModelError(f"no weights {tag!r} for {arch}: known are {', '.join(tags) or 'none'}")
    # open_clip only warns when the activation is not the one that the weights were trained with.
    model_cfg["quick_gelu"] = bool(tag_cfg.get("quick_gelu", False))
    landmarks: tuple[Path, ...] = ()
    if tag_cfg.get("hf_hub"):
        repo, _, name = tag_cfg["hf_hub"].rpartition("/")
        weights = _fetch_weights(repo, name)
        landmarks = (hub.revision_file(weights),)
    else:
        weights = Path(open_clip.download_pretrained(tag_cfg))
    text_cfg = model_cfg["text_cfg"]
    return ModelFiles(
        name=arch,
        model_cfg=model_cfg,
        preprocess_cfg={key: tag_cfg[key] for key in _PREPROCESS if key in tag_cfg},
        weights=(weights,),
        text_folder=_text_folder(text_cfg, "hf_model_name", None),
        tokenizer_folder=_text_folder(text_cfg, "hf_tokenizer_name", None),
        landmarks=landmarks,
    )


def _fetch_weights(repo: str, name: str) -> Path:
    """The tag's checkpoint, as safetensors where the repository has that."""
    from clipcls.encoders import hub

    names = (f"{Path(name).stem}.safetensors", name) if name else _WEIGHTS
    for candidate in names:
        if path := hub.fetch_if_there(repo, candidate):
            return path
    raise ModelError(f"the hub repository {repo} holds none of {', '.join(names)}")


def _fetch_tokenizer(repo: str) -> Path | None:
    """The folder that a repository's tokenizer was put in; None where the repository has none."""
    from clipcls.encoders import hub

    found = [path for name in _TOKENIZER if (path := hub.fetch_if_there(repo, name))]
    return found[0].parent if found else None


def _text_folder(text_cfg: Config, key: str, folder: Path | None) -> Path | None:
    """The folder that serves a Hugging Face name in a text tower's configuration: the model's own if it can."""
    name = text_cfg.get(key)
    if not name:
        return None
    signs = ("config.json",) if key == "hf_model_name" else _TOKENIZER[1:]
    if folder and any((folder / sign).is_file() for sign in signs):
        return folder
    found = _fetch_tokenizer(name)
    if found is None:
        raise ModelError(f"the hub repository {name}, which the model's text tower needs, holds no tokenizer")
    return found


def _read_config(path: Path) -> tuple[Config, Config]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        model_cfg, preprocess_cfg = table["model_cfg"], table.get("preprocess_cfg", {})
        if not isinstance(model_cfg["text_cfg"], dict) or not isinstance(model_cfg["vision_cfg"], dict):
            raise TypeError("text_cfg and vision_cfg must be tables")
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(f"{path} is not an open_clip configuration: {exc}") from exc
    return model_cfg, preprocess_cfg


def _fields(files: ModelFiles) -> dict[str, Any]:
    return {name: getattr(files, name) for name in ModelFiles.__slots__}


def _close(name: str, known: Iterable[str]) -> str:
    similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(similar)}?" if similar else ""
