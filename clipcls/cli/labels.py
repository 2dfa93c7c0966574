"""``clipcls labels``: label sets listed, shown and checked."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer

from clipcls.cli.common import open_classifier, say
from clipcls.cli.options import Debug, Model
from clipcls.cli.tables import Column, list_sets, show_table

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Look at label sets: files of labels, and those that come with clipcls.",
)

Wanted = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A label set's name, or a file of labels.")]


@app.command("list")
def list_(debug: Debug = False) -> None:
    """List all label sets: your project's, your own, and those that come with clipcls.

    clipcls labels list
    """
    from clipcls.labelfiles import read_labels

    def describe(path: Path) -> tuple[str, str, str]:
        found = read_labels(path)
        return found.language, str(len(found.labels)), found.description

    list_sets("labels", "labels", describe)


@app.command()
def show(wanted: Wanted, debug: Debug = False) -> None:
    """Show the labels of a set with all that is known of each.

    clipcls labels show cifar-10-zh
    """
    from clipcls.labelfiles import FIELDS, load_labels
    from clipcls.labels import SYNONYM, label_set

    rows = [
        [value if isinstance(value, str) else SYNONYM.join(value or ()) for value in astuple(label)]
        for label in label_set(load_labels(wanted).labels)
    ]
    used = [at for at in range(len(FIELDS)) if any(row[at] for row in rows)]
    # In a pipe this is a file of labels that reads back equal.
    show_table([Column(FIELDS[at]) for at in used], [[row[at] for at in used] for row in rows])


@app.command()
def check(wanted: Wanted, model: Model = None, debug: Debug = False) -> None:
    """Check a label set: whether it can be read, and which labels the model cannot tell apart.

    clipcls labels check labels.txt
    """
    from clipcls.labelfiles import load_labels
    from clipcls.labels import label_set, shared_names
    from clipcls.settings import Settings

    labels = label_set(load_labels(wanted).labels)
    for name, owners in shared_names(labels).items():
        say(f"warning: {name!r} stands for {' and '.join(owners)}")
    with open_classifier(Settings.load({"model": model}), cache=True) as classifier:
        classifier.zero_shot(labels, "plain")  # warns of all else
    say(f"{len(labels)} label{'s' * (len(labels) != 1)}")
