"""Where a model's parts lie on disk: configuration, weights, text-tower configuration, tokenizer."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcls.encoders import tags
from clipcls.encoders.limits import check_sizes
from clipcls.encoders.spec import CONFIG_NAME, ENCODER_VERSION, ModelSpec
from clipcls.errors import ModelError
from clipcls.records import EncoderInfo, FileStamp, Precision

Config = dict[str, Any]

WEIGHTS = "open_clip_model.safetensors"
"""The checkpoint that open_clip prefers, and the only one that graphs point into."""
GRAPHS = ("image.onnx", "text.onnx")
"""The image and the text tower of a traced model."""
FACTS = "traced.json"
"""What besides its graphs is needed of a traced model."""
FINGERPRINT_KEY = "clipcls.fingerprint"
"""In a graph's metadata: the fingerprint of the model that it was traced from."""
_WEIGHTS = (WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_CLIP_TOKENS = 49408
_MANY_TOKENS = 200_000
"""No tokenizer of one language has as many; those of XLM-RoBERTa, NLLB, mT5 and Gemma do."""
_LANGUAGE = re.compile("[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,2}")
_NAMED = 4
"""How many of the names that there are stand in a message."""
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")

TEXT_CONFIG = "config.json"
_TOKENIZER_SETTINGS = (
    TEXT_CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)
TOKENIZER = "tokenizer"
"""Folder in a model's folder for a tokenizer whose config.json is not the text tower's."""
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
"""Any of them, together with the settings, makes a tokenizer."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """All that ``open_clip.create_model`` needs, or transformers, on this machine's disk."""

    name: str
    """Its first argument: ``local-dir:FOLDER``, or the name of an architecture; for transformers a bare folder."""
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
    traced: Path | None = None
    """The folder, where graphs for ONNX Runtime lie in it beside the weights."""
    stated_languages: tuple[str, ...] = ()
    """What the configuration says of languages, as ``clipcls models export`` writes it there."""

    @property
    def weights_by_name(self) -> bool:
        """Whether open_clip must be told the checkpoint and its preprocessing; in a folder it finds them."""
        return not self.name.startswith("local-dir:")

    @property
    def by_source_language(self) -> bool:
        """Whether the text tower is NLLB's, which has to be told the language of what it reads."""
        return self.text_folder is not None and _model_type(self.text_folder / TEXT_CONFIG) == "m2m_100"

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the text tower was trained on, by the configuration or else the tokenizer; else empty."""
        if self.stated_languages:
            return self.stated_languages
        cfg = self.model_cfg.get("text_cfg") or self.model_cfg.get("text_config") or {}
        if self.text_folder:
            cfg = json.loads((self.text_folder / TEXT_CONFIG).read_text(encoding="utf-8"))
        tokens = cfg.get("vocab_size")
        if self.tokenizer_folder is None or tokens == _CLIP_TOKENS:
            return ("en",)  # CLIP's BPE was learned from English text
        return ("mul",) if isinstance(tokens, int) and tokens >= _MANY_TOKENS else ()

    def describe(
        self,
        spec: ModelSpec,
        fingerprint: str,
        *,
        dim: int,
        logit_scale: float,
        logit_bias: float | None,
        precision: Precision = "fp32",
        languages: tuple[str, ...] = (),
    ) -> EncoderInfo:
        """What scoring needs to know of the model, whatever runs it.

        Args:
            spec: the model's name.
            fingerprint: the model's in this precision.
            dim: length of an embedding.
            logit_scale: as in the checkpoint, exponentiated.
            logit_bias: as in the checkpoint; None where the model has none.
            precision: what the towers compute in.
            languages: those that this type of model is for, where nothing else tells.

        Raises:
            ModelError: scale or bias cannot be meant.
        """
        # A bias that the checkpoint lacks open_clip sets to exactly 0, and every probability would be near 0.5 or 1.
        usable_bias = logit_bias is None or (math.isfinite(logit_bias) and logit_bias != 0)
        if not math.isfinite(logit_scale) or not usable_bias:
            raise ModelError(f"cannot load the model {spec.given}: its weights hold no usable logit scale or bias")
        return EncoderInfo(
            spec=spec.given,
            fingerprint=fingerprint,
            precision=precision,
            dim=dim,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            activation="softmax" if logit_bias is None else "sigmoid",
            languages=spec.languages or self.languages or languages,
        )

    def fingerprint(self, precision: str, digest: Callable[[Path], str]) -> str:
        """Identity of what is computed: weights, configuration, preprocessing, tokenizer, precision, code version.

        A model has the same one on the hub and as the folder that it is exported to.
        """
        single = len(self.weights) == 1  # else the names tell which one open_clip takes
        parts = {
            "weights": [(WEIGHTS if single else path.name, digest(path)) for path in self.weights],
            "text": [(path.name, digest(path)) for path in self.text_files()],
            "model": self.placed_cfg(".", "."),
            "preprocess": self.preprocess_cfg,
            "precision": precision,
        }
        if self.by_source_language:
            parts["source language"] = "told by the prompt's script"
        summed = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return f"{ENCODER_VERSION}-{summed[:40]}"

    def placed_cfg(self, tower: str, tokenizer: str) -> Config:
        """The model's configuration with other places for its Hugging Face text tower and tokenizer, if it has them."""
        places = {"hf_model_name": tower, "hf_tokenizer_name": tokenizer}
        text_cfg = self.model_cfg.get("text_cfg") or {}
        moved = {key: place for key, place in places.items() if text_cfg.get(key)}
        return self.model_cfg | {"text_cfg": text_cfg | moved} if moved else self.model_cfg

    def watched(self) -> tuple[FileStamp, ...]:
        """The files whose size or time of change tells that the model is no longer the same."""
        parts = (*self.weights, *self.text_files())
        # In the hub's cache this file names the commit in use; in a folder of one's own there is no such file.
        revisions = [path.parent.parent.parent / "refs" / "main" for path in parts]
        paths = dict.fromkeys((*parts, *self.landmarks, *revisions))
        return tuple(FileStamp.of(path) for path in paths if path.exists())

    def text_files(self) -> list[Path]:
        """The text tower's configuration and the tokenizer."""
        folders = dict.fromkeys(folder for folder in (self.text_folder, self.tokenizer_folder) if folder)
        names = (*_TOKENIZER_SETTINGS, *_VOCABULARIES)
        return [path for folder in folders for name in names if (path := folder / name).is_file()]


def locate_open_clip(spec: ModelSpec) -> ModelFiles:
    """Find an open_clip model's files, downloading what is missing.

    Raises:
        ModelError: the model is unknown, incomplete, or cannot be downloaded.
    """
    if spec.kind == "folder":
        return _in_folder(Path(spec.target))
    if spec.kind == "hub":
        return _on_hub(spec.target)
    return _by_tag(*spec.target.split("/"))


def _in_folder(folder: Path) -> ModelFiles:
    model_cfg, preprocess_cfg, languages = _read_config(folder / CONFIG_NAME)
    weights = [path for suffix in ("safetensors", "bin", "pth") for path in folder.glob(f"*.{suffix}")]
    weights = sorted(path for path in weights if path.is_file())
    if not weights:
        raise ModelError(f"{folder} holds no weights: a .safetensors, .bin or .pth file is missing")
    text_cfg = model_cfg["text_cfg"]
    return ModelFiles(
        name=f"local-dir:{folder}",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        weights=tuple(weights),
        text_folder=_text_folder(text_cfg.get("hf_model_name"), own=folder),
        tokenizer_folder=tokenizer_folder(text_cfg.get("hf_tokenizer_name"), own=folder),
        # A file that is added to a folder changes the folder's own time.
        landmarks=(folder, folder / CONFIG_NAME),
        traced=traced_folder(weights if len(weights) == 1 else [folder / WEIGHTS]),
        stated_languages=languages,
    )


def traced_folder(weights: Sequence[Path]) -> Path | None:
    """The folder of a model's weights, if graphs lie beside them that can be run."""
    folder = weights[0].parent
    # ONNX Runtime follows no links to weights, and a hub's cache is made of them.
    usable = all(path.is_file() and not path.is_symlink() for path in (folder / FACTS, *weights))
    return folder if usable and all((folder / name).is_file() for name in GRAPHS) else None


def _on_hub(repo: str) -> ModelFiles:
    from clipcls.encoders import hub

    config = hub.fetch(repo, CONFIG_NAME)
    model_cfg, preprocess_cfg, languages = _read_config(config)
    text_cfg = model_cfg["text_cfg"]
    tower, tokenizer = (
        repo if name == "." else name for name in (text_cfg.get("hf_model_name"), text_cfg.get("hf_tokenizer_name"))
    )
    return ModelFiles(
        name=f"local-dir:{config.parent}",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        text_folder=_text_folder(tower),
        tokenizer_folder=tokenizer_folder(tokenizer),
        # Last, since they are large; whatever other programs put beside them, open_clip prefers these names.
        weights=(_fetch_weights(repo, _WEIGHTS),),
        landmarks=(config.parent, config),
        stated_languages=languages,
    )


def _by_tag(arch: str, name: str) -> ModelFiles:
    tag_cfg, model_cfg = tags.tag(arch, name), tags.architecture(arch)
    if model_cfg is None:
        raise unknown_architecture(arch, name, tags.architectures())
    if not tag_cfg:
        raise unknown_weights(arch, name, list(tags.tags(arch)))
    # open_clip only warns when the activation is not the one that the weights were trained with. Where the tag says
    # nothing, the architecture's own is right (roberta-ViT-B-32).
    model_cfg["quick_gelu"] = bool(tag_cfg.get("quick_gelu", model_cfg.get("quick_gelu", False)))
    repo, _, file = tag_cfg.get("hf_hub", "").rpartition("/")
    if not repo:
        raise ModelError(f"open_clip names no hub repository for {arch}/{name}")
    text_cfg = model_cfg["text_cfg"]
    return ModelFiles(
        name=arch,
        model_cfg=model_cfg,
        preprocess_cfg={key: tag_cfg[key] for key in _PREPROCESS if key in tag_cfg},
        text_folder=_text_folder(text_cfg.get("hf_model_name")),
        tokenizer_folder=tokenizer_folder(text_cfg.get("hf_tokenizer_name")),
        # Safetensors where the repository has them.
        weights=(_fetch_weights(repo, (f"{Path(file).stem}.safetensors", file) if file else _WEIGHTS),),
        # A new version of open_clip may mean something else by the same names.
        landmarks=(tags.open_clip_folder() / "pretrained.py",),
    )


def _fetch_weights(repo: str, names: Sequence[str]) -> Path:
    from clipcls.encoders import hub

    weights = hub.fetch_any(repo, names)
    if weights is None:
        raise ModelError(f"the hub repository {repo} holds no open_clip weights: none of {', '.join(names)}")
    return weights


def _text_folder(name: str | None, own: Path | None = None) -> Path | None:
    """The folder whose config.json describes a Hugging Face text tower: the model's own, else a repository's."""
    if not name:
        return None
    if own and _describes_text_tower(own / TEXT_CONFIG):
        return own
    if own and name.startswith((".", "/")):
        raise ModelError(f"{own} holds no {TEXT_CONFIG} of a text tower that open_clip can build")

    from clipcls.encoders import hub

    config = hub.fetch(name, TEXT_CONFIG)
    if not _describes_text_tower(config):
        raise ModelError(f"open_clip cannot build a text tower from the hub repository {name}")
    return config.parent


def tokenizer_folder(name: str | None, own: Path | None = None) -> Path | None:
    """The folder that holds a Hugging Face tokenizer: the model's own, else a repository's."""
    if not name:
        return None
    inside = own / TOKENIZER if own and name == TOKENIZER else own
    if inside and any((inside / vocabulary).is_file() for vocabulary in _VOCABULARIES):
        return inside
    if own and name.startswith((".", "/")):
        raise ModelError(f"{own} holds no tokenizer: tokenizer.json is missing")

    from clipcls.encoders import hub

    # The vocabulary comes last: once it is on disk, so are the settings, and nothing more is asked for.
    if not hub.on_disk(name, _VOCABULARIES):
        for setting in _TOKENIZER_SETTINGS:
            hub.fetch_if_there(name, setting)
    vocabulary = hub.fetch_any(name, _VOCABULARIES)
    if vocabulary is None:
        raise ModelError(f"the hub repository {name}, whose tokenizer the model needs, holds none")
    return vocabulary.parent


def _describes_text_tower(config: Path) -> bool:
    """Whether open_clip can build a text tower from this file.

    Models made for transformers as well have a config.json that describes both towers; and one of an unknown type
    might bring code of its own.
    """
    known = _model_type(config) in _text_towers()
    if known:
        check_sizes(config, json.loads(config.read_text(encoding="utf-8")))
    return known


def _model_type(config: Path) -> str | None:
    """What transformers calls this type of model; None where the file does not say."""
    try:
        named = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return named if isinstance(named, str) else None


def _text_towers() -> Container[str]:
    """The types of text tower that open_clip can build: its own table, without the package, which imports torch."""
    towers: Container[str] = tags.open_clip_module("hf_configs").arch_dict
    return towers


def unknown_architecture(arch: str, tag: str, known: Iterable[str]) -> ModelError:
    """An error with the architectures that may have been meant."""
    near = _near(arch, known) or f"for a hub repository write hf-hub:{arch}/{tag}"
    return ModelError(f"open_clip knows no architecture {arch!r}; {near}")


def unknown_weights(arch: str, tag: str, known: Sequence[str]) -> ModelError:
    """An error with the weights that may have been meant, else with some of those that there are."""
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    near = _near(tag, known) or f"known are {', '.join(known[:_NAMED]) or 'none'}{more}"
    return ModelError(f"open_clip knows no weights {tag!r} of {arch}; {near}")


def stated_languages(config: Config) -> tuple[str, ...]:
    """The languages that a model's configuration names; empty where it names none, or something else."""
    named = config.get("languages")
    if not isinstance(named, list) or not all(isinstance(each, str) and _LANGUAGE.fullmatch(each) for each in named):
        return ()
    return tuple(named)


def _read_config(path: Path) -> tuple[Config, Config, tuple[str, ...]]:
    """Model, preprocessing, languages."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        model_cfg, preprocess_cfg = table["model_cfg"], table.get("preprocess_cfg", {})
        text_cfg = model_cfg["text_cfg"]
        if not isinstance(text_cfg, dict) or not isinstance(model_cfg["vision_cfg"], dict):
            raise TypeError("text_cfg and vision_cfg must be tables")
        if not all(isinstance(text_cfg.get(key), str | None) for key in ("hf_model_name", "hf_tokenizer_name")):
            raise TypeError("hf_model_name and hf_tokenizer_name must be names")
    except KeyError as exc:
        raise ModelError(f"{path} is not an open_clip configuration: {exc.args[0]} is missing") from exc
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise ModelError(f"{path} is not an open_clip configuration: {exc}") from exc
    check_sizes(path, model_cfg)
    return model_cfg, preprocess_cfg, stated_languages(table)


def _near(name: str, known: Iterable[str]) -> str:
    """The known names that a person may have meant, as a question; empty if there are none."""
    by_folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(by_folded[each] for each in near)}?" if near else ""
