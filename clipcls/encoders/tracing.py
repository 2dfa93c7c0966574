"""Turn a model's towers into graphs: ``main``, in a process with arguments MODEL FOLDER FINGERPRINT PRECISION.

Run in a process of its own, since tracing leaves torch and the model changed. What the graphs answer is compared with
what torch answered before, on photographs and on prompts in both languages; if it differs, the folder says so instead.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipcls import promptfiles
from clipcls.encoders import graphs
from clipcls.encoders.agreement import LEAST_FASTER, compared, measure, pace, photographs
from clipcls.encoders.base import Vectors, one_line, out_of_memory
from clipcls.encoders.files import FINGERPRINT_KEY, GRAPHS, ModelFiles
from clipcls.encoders.locate import locate
from clipcls.encoders.onnx import OnnxEncoder
from clipcls.encoders.spec import ModelSpec, parse_spec
from clipcls.encoders.traced import OWN_WEIGHTS, PLACES, TOKENS, Traced, lay_weights, locations, read, refuse
from clipcls.errors import ClipclsError, ModelError
from clipcls.records import Precision

LEAST_COSINE: dict[Precision, float] = {"fp32": 0.99999, "int8": 0.9}
"""Between what torch in float32 and ONNX Runtime make of a picture or a prompt. How good 8 bits are is not for this to
say (``clipcls models info NAME --precision int8``), only whether they are the same model."""
PROMPTS = (
    *("a photo of a cat", "这是一张有关大象的照片", "猫", "", "A CAT，Ｃａｔ &amp; cafe\u0301 ☃ 🚀", "a  cup\tof tea"),
    *("コーヒー", "кошка", "قطة", "고양이", "It's the dog's #1 toy, isn't it?", "under_score 2,000"),
    *("a very long description of a picture " * 12, "一张很长很长的照片说明，" * 12),
)
"""In several scripts, odd and plain, shorter and longer than any context."""


_PROBE_SECONDS = 4.0


class Answers(NamedTuple):
    """What a model makes of the photographs and prompts on which runtimes are compared."""

    images: Vectors
    texts: Vectors
    tokens: Sequence[Any]
    """Token counts of PROMPTS and of many more."""


def trace(spec: ModelSpec, files: ModelFiles, fingerprint: str, folder: Path, precision: Precision = "fp32") -> None:
    """Write a model's graphs, tokenizer and facts.

    Raises:
        ModelError: the model cannot be loaded or traced, or its graphs give other answers.
    """
    encoder = _load(spec, files)
    expected = answers(encoder)
    write(spec, files, encoder, fingerprint, folder)
    lay_weights(files, folder)
    if precision == "int8":
        in_8_bits(files, fingerprint, folder)
    traced = read(folder)
    ours = OnnxEncoder(spec, files, traced, fingerprint, precision)
    compare(expected, answers(ours), LEAST_COSINE[precision])
    if precision == "fp32" and (word := faster(ours, encoder)):
        replace(traced, faster=word).save()


def in_8_bits(files: ModelFiles, fingerprint: str, folder: Path) -> None:
    """Have graphs hold weights of their own, in 8 bits; those that they pointed into are not beside them any more."""
    for path, name in locations(files).items():
        if not (folder / name).exists():  # on another disk, to which no link leads
            shutil.copyfile(path, folder / name)
    for name in GRAPHS:
        graphs.quantize(folder / name, {FINGERPRINT_KEY: fingerprint})
    for name in (OWN_WEIGHTS, PLACES, *locations(files).values()):
        (folder / name).unlink(missing_ok=True)


def write(spec: ModelSpec, files: ModelFiles, encoder: Any, fingerprint: str, folder: Path) -> None:
    """Write graphs, tokenizer and facts, without comparing anything; the model is left changed."""
    import torch

    from clipcls.encoders import towers
    from clipcls.encoders.hfmodel import HFEncoder

    made = towers.of_transformers(encoder) if isinstance(encoder, HFEncoder) else towers.of_open_clip(encoder)
    pixels = torch.zeros(2, 3, *made.pictures.size)
    ids = torch.as_tensor(np.asarray(encoder_ids(encoder, list(PROMPTS[:2]))))
    texts = {"ids": ids} | ({"mask": torch.ones_like(ids)} if made.masked else {})
    models = (
        (graphs.export(made.image, {"pixels": pixels}, tokens=False), {"pixels": pixels}),
        (graphs.export(made.text, texts, tokens=not made.texts.full), texts),
    )
    state = encoder._model.state_dict()
    used = {node.name.removeprefix("model.") for model, inputs in models for node in model.graph.input} & state.keys()
    places = graphs.find_places({name: state[name] for name in sorted(used)}, locations(files), folder)
    named = {}
    for (model, inputs), name in zip(models, GRAPHS, strict=True):
        named[name] = graphs.point_to_weights(model.graph, inputs, places)
        properties = {FINGERPRINT_KEY: fingerprint}
        (folder / name).write_bytes(graphs.content(model, encoder.info.dim, properties))
    (folder / PLACES).write_text(json.dumps(named), encoding="utf-8")
    made.tokenizer.save(str(folder / TOKENS), pretty=False)
    info = encoder.info
    Traced(
        folder, info.dim, info.logit_scale, info.logit_bias, info.languages, TOKENS, made.pictures, made.texts
    ).save()


def faster(ours: OnnxEncoder, theirs: Any) -> str:
    """What to tell a person whose processor computes in bfloat16 much faster than in float32; else nothing."""
    theirs._precision = "bf16"
    if pace(theirs) < LEAST_FASTER * pace(ours):
        return ""
    found = compared(measure(ours, _PROBE_SECONDS), measure(theirs, _PROBE_SECONDS), "bf16")
    if not found.worth_it:
        return ""
    return (
        f"on this processor --precision bf16 embeds {found.faster:.1f} times as many images a second, with the same "
        f"best label for {found.same:.1%} of {found.pictures} pictures; it takes torch to start"
    )


def answers(encoder: Any) -> Answers:
    """What an encoder makes of the photographs and prompts."""
    batch = [encoder.preprocess(picture) for picture in pictures()]
    return Answers(encoder.encode_images(batch), encoder.encode_texts(PROMPTS), encoder.tokenize(many_prompts()))


def compare(expected: Answers, got: Answers, least: float) -> None:
    """Compare two runtimes' answers.

    Raises:
        ModelError: they differ.
    """
    if list(expected.tokens) != list(got.tokens):
        raise ModelError("its tokens are counted otherwise by the library tokenizers")
    for what, ours, theirs in (("image", got.images, expected.images), ("text", got.texts, expected.texts)):
        cosine = float((ours * theirs).sum(axis=1).min())
        if not cosine >= least:
            raise ModelError(f"its {what} tower disagrees with torch, cosine {cosine:.6f}")


def pictures() -> list[Image.Image]:
    """Photographs, whole and cut to odd shapes."""
    whole = photographs()
    boxes = ((0, 0, 31, 90), (20, 20, 220, 90), (60, 10, 124, 74))
    return whole + [picture.crop(box) for picture, box in zip(whole, boxes, strict=False)]


def many_prompts() -> list[str]:
    """PROMPTS, and a word of each language in every shipped template."""
    sets = [promptfiles.load_prompts(name) for name in ("zh", "imagenet-80")]
    filled = [template.replace("{类别}", "大象").replace("{}", "cat") for each in sets for template in each.templates]
    return [*PROMPTS, *filled]


def encoder_ids(encoder: Any, prompts: list[str]) -> Any:
    """Token ids as torch's encoders read them: int64 [n, tokens]."""
    if hasattr(encoder, "_ids"):
        return encoder._ids(prompts)
    return encoder._tokens(prompts)["input_ids"]


def _load(spec: ModelSpec, files: ModelFiles) -> Any:
    """The model through torch; its fingerprint is known, and nothing is digested."""
    if spec.kind == "hf":
        from clipcls.encoders.hfmodel import HFEncoder

        return HFEncoder(spec, files, "cpu", "fp32", lambda path: "")

    from clipcls.encoders.openclip import OpenClipEncoder

    return OpenClipEncoder(spec, files, "cpu", "fp32", lambda path: "")


def main() -> None:
    """Trace the model that the command line names."""
    model, folder, fingerprint, precision = sys.argv[1:]
    spec = parse_spec(model)
    try:
        files = locate(spec)
        try:
            trace(spec, files, fingerprint, Path(folder), "int8" if precision == "int8" else "fp32")
        except Exception as exc:  # the exporter fails in its own ways on what it does not know
            reason = str(exc) if isinstance(exc, ClipclsError) else one_line(exc)
            if getattr(exc, "errno", None) or "(os error " in reason or out_of_memory(exc):
                # A full disk, in Python's words or in Rust's: the next run may have more room.
                raise ModelError(reason) from exc
            for path in Path(folder).iterdir():
                path.unlink()
            refuse(Path(folder), " ".join(reason.split()))
    except ClipclsError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        raise SystemExit(exc.exit_code) from exc
