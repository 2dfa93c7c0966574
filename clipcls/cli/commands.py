"""The commands by name, each imported when it is called: nobody waits for the flags of commands they do not use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from clipcls.cli.language import Translated

COMMANDS = {
    "classify": "Rank labels for every image.",
    "embed": "Write the embedding of every image.",
    "search": "Find the images that fit a sentence.",
    "sort": "Put images into one folder a label.",
    "report": "Show answers as one page, with pictures.",
    "dedup": "Find images that are nearly the same.",
    "score": "Tell how well texts fit images.",
    "eval": "Judge a classifier on pictures whose labels are known.",
    "prompts": "Write prompt templates, check them, and find out which ones work.",
    "labels": "Look at label sets: files of labels, and those that come with clipcls.",
    "models": "Choose a model: what there is, what is known of it, what is on disk.",
    "cache": "Look after what earlier runs kept: embeddings, and models made ready.",
    "config": "See what is set, and where it was set.",
    "doctor": "Show what a maintainer would ask for: versions, devices, folders, settings.",
}
"""What each does: the first line of its own help. The module ``clipcls.cli.NAME`` holds a function of that name or,
where there are commands below it, their ``app``."""


class Command(Translated, TyperCommand):
    """A command whose help page is in the person's language."""


class Group(Translated, TyperGroup):
    """Commands below a command, likewise."""


class Commands(Group):
    """The group of all commands; it knows of each no more than the help page shows."""

    def __init__(self, **attributes: Any) -> None:
        known = {name: TyperCommand(name, help=line) for name, line in COMMANDS.items()}
        super().__init__(**attributes | {"commands": known})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that is called, with all its flags."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, stub and full_command(str(name)), rest


def full_command(name: str) -> Any:
    """A command with all its flags, and with those below it."""
    module = import_module(f"clipcls.cli.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(module, name))
    app.info.cls = Group
    for below in app.registered_commands:
        below.cls = Command
    return get_command(app)
