"""``clipcls models``: what there is, what is known of it, which to use; what moves whole models is in ``transfers``."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipcls.cli import transfers
from clipcls.cli.common import given_labels, quiet_pipe, say, show
from clipcls.cli.language import told
from clipcls.cli.options import AsJson, Debug, Device, LabelsFile
from clipcls.cli.tables import Column, show_table
from clipcls.cli.transfers import Name
from clipcls.errors import ModelError, UsageError

if TYPE_CHECKING:
    from clipcls.encoders.agreement import Agreement
    from clipcls.encoders.catalogue import Entry
    from clipcls.encoders.ondisk import Part
    from clipcls.encoders.spec import ModelSpec

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Choose a model: what there is, what is known of it, what is on disk.",
)

_SHOWN = 3
_ON_DISK = {"yes": "on disk: yes", "partly": "on disk: partly", "no": "on disk: no"}
_KINDS = {
    "folder": "a folder for open_clip",
    "hub": "a hub repository for open_clip",
    "tag": "open_clip's",
    "hf": "for transformers",
}
_UNFREE = ("NC", "research")
"""Words in licences that forbid to earn money with the model."""


@app.command("list")
def list_(json_: AsJson = False, debug: Debug = False) -> None:
    """List the models that have a short name, and those that were imported.

    Any other model of open_clip or of a hub works by its full name.

    clipcls models list
    """
    from clipcls.encoders.catalogue import entries
    from clipcls.encoders.ondisk import imported, on_disk, parts
    from clipcls.encoders.spec import parse_spec

    there = {entry: on_disk(parts(parse_spec(entry.alias))) for entry in entries()}
    there |= dict.fromkeys(imported(), "yes")
    if json_:
        _print_json([asdict(entry) | {"on_disk": found} for entry, found in there.items()])
        return
    rows = [
        (
            *(entry.alias, _languages(entry)),
            *(_percent(entry.imagenet), _percent(entry.chinese_retrieval)),
            *(_number(entry.image_params), _number(entry.image_gflops), _number(entry.download_mb)),
            *(entry.licence, " ".join(_packages(entry)), found),
        )
        for entry, found in there.items()
    ]
    show_table(
        (
            *(Column("name", whole=True), Column("languages")),
            *(Column("ImageNet", right=True), Column("Chinese", right=True)),
            *(Column("Mparams", right=True, spare=True), Column("GFLOPs", right=True, spare=True)),
            *(Column("MB", right=True), Column("licence"), Column("needs", spare=True), Column("on disk")),
        ),
        rows,
    )
    if sys.stdout.isatty():
        say(
            "ImageNet: zero-shot top-1 with English labels. Chinese: Crossmodal-3600 image retrieval, recall@1. "
            "Mparams, GFLOPs: the image tower. clipcls models info NAME tells where the figures come from."
        )


@app.command()
def info(
    name: Name,
    precision: Annotated[
        str | None, typer.Option(help="Also measure how near it comes to fp32: bf16, fp16 or int8.")
    ] = None,
    device: Device = None,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show all that is known of a model: facts and their sources, files on disk and where they lie.

    clipcls models info xlmr-b32
    """
    from clipcls.encoders.ondisk import on_disk, parts
    from clipcls.encoders.spec import parse_spec
    from clipcls.settings import Settings
    from clipcls.sinks.cells import printable

    if device and not precision:
        raise UsageError("--device says where to measure: give --precision too, or leave it out")
    Settings(precision=precision or "auto", device=device or "auto")  # refuses what is unknown
    spec = parse_spec(name)
    files = parts(spec)
    entry = spec.entry
    if json_:
        facts = asdict(entry) if entry else {"alias": None, "spec": name}
        listed = [{"what": part.what, "place": part.place, "path": part.path and str(part.path)} for part in files]
        measured = {"measured": asdict(_measured(name, precision, device))} if precision else {}
        _print_json(facts | {"on_disk": on_disk(files), "files": listed} | measured)
        return
    with quiet_pipe():
        for line in _known(spec):
            show(printable(line))
        show(_ON_DISK[on_disk(files)])
        for line in _places(files):
            typer.echo(f"  {told(printable(line))}")
        if on_disk(files) == "yes":
            show(printable(f"without torch: {_without_torch(spec)}"))
        if precision:
            near = _measured(name, precision, device)
            show(
                f"{near.precision} against fp32: cosine of images at least {near.images:.4f} ({near.centred:.4f} less "
                f"their mean), of texts {near.texts:.4f}; the same best label for {near.same:.1%} of {near.pictures} "
                f"pictures; {near.faster:.2f} times as fast"
            )


def _without_torch(spec: ModelSpec) -> str:
    """Whether ONNX Runtime runs a model on the CPU, and if not, why."""
    from clipcls.encoders.locate import locate
    from clipcls.encoders.traced import refusal
    from clipcls.pipeline import Embedder
    from clipcls.settings import Settings
    from clipcls.store import Store

    settings, files = Settings.load(), locate(spec)
    if files.traced:
        return f"yes, its graphs came with it in {files.traced}"
    home = settings.traced_folder
    if home is None:
        return "no, trace is off in the settings"
    fingerprint = Embedder(spec.given, store=Store.open(settings.cache_folder)).fingerprint(files)
    if reason := refusal(home, fingerprint):
        return f"no, it cannot be traced: {reason}"
    return f"yes, traced in {home / fingerprint}" if (home / fingerprint).is_dir() else "from its first use on"


def _measured(model: str, precision: str, device: str | None) -> Agreement:
    from clipcls.encoders.agreement import agreements
    from clipcls.settings import Settings

    return next(agreements(model, [precision], device or "auto", Settings.load().traced_folder))


@app.command()
def path(name: Name, debug: Debug = False) -> None:
    """Print the folder that holds a model's weights.

    clipcls models path xlmr-b32
    """
    from clipcls.encoders.ondisk import parts
    from clipcls.encoders.spec import parse_spec

    files = parts(parse_spec(name))
    weights = files[-1].path
    if weights is None:
        raise ModelError(f"the weights of {name} are not on disk: clipcls models pull {shlex.quote(name)} gets them")
    with quiet_pipe():
        typer.echo(weights.parent)


@app.command()
def use(
    name: Name,
    project: Annotated[bool, typer.Option("--project", help="For this folder alone, in ./clipcls.toml.")] = False,
    debug: Debug = False,
) -> None:
    """Make a model the default, in your own settings or in this folder's.

    clipcls models use xlmr-b32
    """
    from clipcls.encoders.ondisk import on_disk, parts
    from clipcls.encoders.spec import parse_spec
    from clipcls.settings import PROJECT_FILE, Settings, save_model, user_file

    spec = parse_spec(name)
    there = on_disk(parts(spec))  # refuses what open_clip does not know
    file = PROJECT_FILE if project else user_file()
    save_model(file, name if project else _from_anywhere(spec))
    say(f"{name} is the default now, by {file.absolute()}")
    if there != "yes":
        say(f"it is not all on disk: clipcls models pull {shlex.quote(name)} gets it, or else its first use does")
    if (chosen := Settings.load().model) not in (name, _from_anywhere(spec)):
        place = "CLIPCLS_MODEL" if project else "clipcls.toml or CLIPCLS_MODEL"
        say(f"warning: here the default is still {chosen}, by {place}")


@app.command()
def recommend(
    labels: Annotated[
        list[str] | None, typer.Option("--labels", "-l", help="Labels, separated by , or ， or 、")
    ] = None,
    labels_file: LabelsFile = None,
    device: Device = None,
    fast: Annotated[bool, typer.Option("--fast", help="Speed matters more than usual.")] = False,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Recommend models for your labels: who reads them, how good each is, how fast on your device.

    clipcls models recommend --labels 大象,冰箱
    """
    from clipcls.encoders.catalogue import recommended
    from clipcls.labels import label_set, script
    from clipcls.languages import reads
    from clipcls.settings import Settings

    names = [each for label in label_set(given_labels(labels, labels_file)) for each in label.names]
    scripts = tuple(dict.fromkeys(kind for kind in map(script, names) if kind))
    where = _device(Settings.load({"device": device}).device)
    fitting, budget = recommended(
        lambda entry: all(reads(entry.languages, kind) for kind in scripts),
        chinese="Chinese" in scripts,
        device=where,
        fast=fast,
    )
    if json_:
        listed = [
            asdict(entry) | {"why": "; ".join(_reasons(entry, scripts, where, budget)), "command": _command(entry)}
            for entry in fitting[:_SHOWN]
        ]
        _print_json({"scripts": scripts, "device": where, "fast": fast, "models": listed})
        return
    with quiet_pipe():
        for entry in fitting[:_SHOWN]:
            show(f"{entry.alias}: {entry.description}")
            for reason in _reasons(entry, scripts, where, budget):
                typer.echo(f"    {told(reason)}")
            typer.echo(f"    {_command(entry)}")


def _known(spec: ModelSpec) -> Iterator[str]:
    return _facts(spec.entry) if spec.entry else _unlisted(spec)


def _facts(entry: Entry) -> Iterator[str]:
    """Each fact and, in brackets, its source."""
    yield f"name: {entry.alias}"
    yield f"stands for: {entry.spec}"
    yield f"languages: {_languages(entry)}"
    yield f"description: {entry.description}"
    yield f"licence: {_sourced(entry, 'licence', entry.licence)}"
    yield f"ImageNet zero-shot top-1, English labels: {_sourced(entry, 'imagenet', _percent(entry.imagenet))}"
    chinese = _sourced(entry, "chinese_retrieval", _percent(entry.chinese_retrieval))
    yield f"Crossmodal-3600 image retrieval recall@1, Chinese: {chinese}"
    millions = _sourced(entry, "image_params", _number(entry.image_params))
    yield f"parameters of the image tower, in millions: {millions}"
    yield f"an image costs: {_sourced(entry, 'image_gflops', _number(entry.image_gflops, ' GFLOPs'))}"
    yield f"download of the weights: {_sourced(entry, 'download_mb', _number(entry.download_mb, ' MB'))}"
    yield f"needs: {', '.join(_packages(entry)) or 'nothing more'}"


def _sourced(entry: Entry, fact: str, value: str) -> str:
    return f"{value} ({entry.source[fact]})" if value else "not published, as far as we know"


def _unlisted(spec: ModelSpec) -> Iterator[str]:
    yield f"name: {spec.given}"
    yield f"kind: {_KINDS[spec.kind]}"
    yield "facts: none: it is not in the catalogue (clipcls models list)"


def _places(files: Iterable[Part]) -> Iterator[str]:
    """Where each file of a model lies."""
    for part in files:
        place = f"{part.path} ({part.size / 1e6:,.1f} MB)" if part.path else f"not on disk, it is in {part.place}"
        yield f"{part.what}: {place}"


def _reasons(entry: Entry, scripts: tuple[str, ...], where: str, budget: float) -> Iterator[str]:
    """Why one would take a model, and what it costs."""
    for kind in scripts:
        yield "reads Latin script" if kind == "Latin" else f"reads {kind}"
    if not scripts:
        yield "reads your labels"
    if "Chinese" in scripts and entry.chinese_retrieval:
        yield f"finds {entry.chinese_retrieval:.1%} of pictures by a Chinese caption (Crossmodal-3600)"
    elif "Chinese" in scripts:
        yield "no recall@1 in Chinese is published"
    if entry.imagenet:
        yield f"{entry.imagenet:.1%} on ImageNet with English labels"
    if entry.image_gflops:
        slow = "" if entry.image_gflops <= budget else ", which is slow"
        yield f"{entry.image_gflops:.3g} GFLOPs an image on {where}{slow}"
    size = f"a download of {entry.download_mb:,} MB" if entry.download_mb else "no download"
    yield size if entry.download_mb is not None else "a download of unknown size"
    if any(word in entry.licence for word in _UNFREE):
        yield f"not for commercial use ({entry.licence})"


def _command(entry: Entry) -> str:
    return f"clipcls models use {entry.alias}"


def _device(asked: str) -> str:
    """The device that auto will probably stand for, told without torch."""
    if asked != "auto":
        return asked
    return "cuda" if shutil.which("nvidia-smi") else "mps" if sys.platform == "darwin" else "cpu"


def _from_anywhere(spec: ModelSpec) -> str:
    """A model's name as it means the same in every folder."""
    from clipcls.encoders.spec import imported_folder

    if spec.is_starter:
        return "starter"
    if not Path(spec.target).is_absolute() or imported_folder(spec.given) == Path(spec.target):
        return spec.given
    return f"hf:{spec.target}" if spec.kind == "hf" else spec.target


def _languages(entry: Entry) -> str:
    return " ".join("and many" if language == "mul" else language for language in entry.languages)


def _packages(entry: Entry) -> Iterable[str]:
    for name in entry.packages:
        yield name if importlib.util.find_spec(name) else f"{name} (missing: pip install {shlex.quote(name)})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.10g}{unit}"


def _print_json(found: object) -> None:
    with quiet_pipe():
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))


transfers.register(app)
