"""``clipcls config``: what is set, and where."""

from __future__ import annotations

import typer

from clipcls.cli.options import Debug
from clipcls.cli.tables import Column, show_table

app = typer.Typer(add_completion=False, no_args_is_help=True, help="See what is set, and where it was set.")


@app.command()
def show(debug: Debug = False) -> None:
    """Show each setting, its value and where that comes from.

    clipcls config show
    """
    from clipcls.settings import origins

    rows = [(name, _shown(value), place) for name, (value, place) in origins().items()]
    show_table((Column("setting", whole=True), Column("value"), Column("from")), rows)


@app.command()
def path(debug: Debug = False) -> None:
    """Print the files that settings are read from, the first to be obeyed first, whether they are there or not.

    clipcls config path
    """
    from clipcls.settings import PROJECT_FILE, user_file

    typer.echo(PROJECT_FILE.absolute())
    typer.echo(user_file())


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, tuple) else str(value)
