"""``clipcls prompts``: prompt sets listed, shown, written and checked; what tries them on images is in ``trials``."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipcls.cli import trials
from clipcls.cli.common import given_labels, open_classifier, quiet_pipe, say
from clipcls.cli.language import told
from clipcls.cli.options import Debug, Labels, LabelsFile, Model
from clipcls.cli.tables import Column, list_sets, show_table
from clipcls.errors import ClipclsError, UsageError

if TYPE_CHECKING:
    from clipcls.classifier import Classifier
    from clipcls.labels import Label
    from clipcls.promptcheck import Fault
    from clipcls.prompts import PromptSet

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Write prompt templates, check them, and find out which ones work."
)


@app.command("list")
def list_(debug: Debug = False) -> None:
    """List all prompt sets: your project's, your own, and those that come with clipcls.

    clipcls prompts list
    """
    from clipcls.promptfiles import read_prompts

    def describe(path: Path) -> tuple[str, str, str]:
        found = read_prompts(path)
        return found.language, _size(found), found.description

    list_sets("prompts", "templates", describe)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A set's name, a file or a template.")],
    labels: Labels = None,
    labels_file: LabelsFile = None,
    model: Model = None,
    debug: Debug = False,
) -> None:
    """Show a set's prompts, how many tokens each takes, and which do not fit into the model's context.

    clipcls prompts show zh --labels 大象
    """
    from clipcls.labels import is_chinese, label_set
    from clipcls.promptcheck import EXAMPLES
    from clipcls.promptfiles import chosen, load_prompts
    from clipcls.prompts import expand, wordings
    from clipcls.settings import Settings

    prompt_set = load_prompts(name)
    words = " ".join(expand(template, "") for template in prompt_set.templates)
    example = EXAMPLES["zh" if is_chinese(words) else "en"]
    wanted: list[str | Label] = [*given_labels(labels, labels_file)]
    if not wanted:
        wanted = [*prompt_set.labels] if not prompt_set.templates else [example]
    prompts = [prompt for wording in wordings(label_set(wanted), chosen(prompt_set)) for prompt in wording.prompts]
    with open_classifier(Settings.load({"model": model}), cache=True) as classifier, quiet_pipe():
        counts = classifier.count_tokens(prompts)
    about = (prompt_set.name, prompt_set.language, _size(prompt_set) + " templates", prompt_set.description)
    say("  ".join(filter(None, about)))
    rows = [
        (prompt, str(count.tokens), "its end is not read" if count.cut else "")
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    show_table((Column("prompt"), Column("tokens", right=True), Column("cut off")), rows)


@app.command()
def path(
    name: Annotated[str | None, typer.Argument(help="A set's name; without it the folders are printed.")] = None,
    debug: Debug = False,
) -> None:
    """Print the file of a set, or the folders in which sets are looked for, the first one first.

    clipcls prompts path zh
    """
    from clipcls.library import folders
    from clipcls.promptfiles import find_prompts

    found = [find_prompts(name)[0]] if name else [folder for _, folder in folders("prompts")]
    with quiet_pipe():
        for each in found:
            typer.echo(each.absolute())


@app.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .toml file, such as prompts/mine.toml.")],
    from_: Annotated[str | None, typer.Option("--from", help="Begin with the templates of this set.")] = None,
    debug: Debug = False,
) -> None:
    """Write a prompt set to begin with, with comments that tell how to go on.

    clipcls prompts new mine.toml --from zh-plain
    """
    from clipcls.promptfiles import new_prompts

    written = new_prompts(file, from_)
    say(f"wrote {written}; now edit it, check it with: clipcls prompts check {shlex.quote(str(written))}")


@app.command()
def edit(
    name: Annotated[str, typer.Argument(help="A set's name or a file.")],
    debug: Debug = False,
) -> None:
    """Open a prompt set in $VISUAL or $EDITOR, and check it when the editor is closed.

    clipcls prompts edit mine.toml
    """
    from clipcls.library import shipped_folder
    from clipcls.promptcheck import check_prompts
    from clipcls.promptfiles import find_prompts

    file, part = find_prompts(name)
    if not file.is_file():
        raise UsageError(f"{file}: no such file; clipcls prompts new {shlex.quote(str(file))} makes one")
    if file.parent.resolve() == shipped_folder().resolve():
        raise UsageError(
            f"{name} comes with clipcls and stays as it is; clipcls prompts new prompts/{file.name} --from {file.stem} "
            "makes a copy that wins over it"
        )
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
    while True:
        try:
            subprocess.run([*shlex.split(editor, posix=os.name != "nt"), str(file)], check=True)
        except (OSError, ValueError) as exc:
            raise UsageError(f"the editor {editor!r} cannot be started: {exc}; set EDITOR to one that can") from exc
        except subprocess.CalledProcessError as exc:
            raise ClipclsError(f"the editor {editor!r} failed with exit code {exc.returncode}") from exc
        faults = check_prompts(file, part)
        code = _tell(faults, [file])
        if not (code and sys.stdin.isatty() and typer.confirm(told("Edit it again?"), default=True, err=True)):
            raise typer.Exit(code)


@app.command()
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files or names of sets.")],
    labels: Labels = None,
    labels_file: LabelsFile = None,
    model: Model = None,
    debug: Debug = False,
) -> None:
    """Find every fault in prompt sets, with file, line and column; exit code 2 if there is an error.

    clipcls prompts check mine.toml
    """
    from clipcls.labels import label_set
    from clipcls.promptcheck import check_prompts
    from clipcls.promptfiles import find_prompts
    from clipcls.settings import Settings

    wanted = given_labels(labels, labels_file)
    names = [name for label in label_set(wanted) for name in label.names] if wanted else []
    found = [find_prompts(file) for file in files]
    with open_classifier(Settings.load({"model": model}), cache=True) as classifier:
        ready = _can_count(classifier)
        faults = [
            fault
            for file, part in found
            for fault in check_prompts(file, part, names, classifier.count_tokens if ready else None)
        ]
    raise typer.Exit(_tell(faults, [file for file, _ in found]))


def _can_count(classifier: Classifier) -> bool:
    """Whether the model is there to count tokens; templates can be checked without it."""
    try:
        classifier.count_tokens([""])
    except ClipclsError as exc:
        say(f"warning: lengths are not checked: {exc}")
        return False
    return True


def _tell(faults: list[Fault], files: list[Path]) -> int:
    """Print the faults; the exit code."""
    from clipcls.sinks.cells import printable

    with quiet_pipe():
        for fault in faults:
            typer.echo(printable(str(replace(fault, message=told(fault.message)))))
    errors = sum(fault.severity == "error" for fault in faults)
    warnings = len(faults) - errors
    say(
        f"{len(files)} file{'s' * (len(files) != 1)}: {errors} error{'s' * (errors != 1)}, "
        f"{warnings} warning{'s' * (warnings != 1)}"
    )
    return UsageError.exit_code if errors else 0


def _size(prompt_set: PromptSet) -> str:
    own = f" + {len(prompt_set.labels)} labels' own" if prompt_set.labels else ""
    return f"{len(prompt_set.templates)}{own}"


trials.register(app)
