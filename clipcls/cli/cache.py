"""``clipcls cache``: look after the embeddings that earlier runs kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipcls.cli.common import confirm_deleting, quiet_pipe, show
from clipcls.cli.options import Debug

if TYPE_CHECKING:
    from clipcls.store import Store

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Look after what earlier runs kept: embeddings, and models made ready.",
)


@app.command()
def info(debug: Debug = False) -> None:
    """Show where the cache is, how large it is and what it holds.

    clipcls cache info
    """
    with _store() as store, quiet_pipe():
        known = store.info()
    show(f"{known.path}: {_megabytes(known.bytes)}")
    show(f"{known.images:,} image and {known.texts:,} text embeddings")
    show(f"{known.files:,} files known by content, {known.failures:,} unreadable pictures remembered")
    for model in known.models:
        names = ", ".join(_shown(spec) for spec in model.specs) or "no model in use (clipcls cache prune drops it)"
        show(f"  {model.fingerprint}  {model.images:,} images, {model.texts:,} texts  {names}")
    count, size = traced_size(_traced())
    if count:
        show(f"{count} models made ready to run without torch: {_megabytes(size)} in {_traced()}")
    for path in known.set_aside:
        show(f"set aside because it was damaged or newer: {path} (clipcls cache clear deletes it)")


@app.command()
def path(debug: Debug = False) -> None:
    """Print the cache folder.

    clipcls cache path
    """
    typer.echo(_folder())


@app.command()
def clear(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, debug: Debug = False) -> None:
    """Delete all of it; later runs embed everything again.

    clipcls cache clear
    """
    with _store() as store:
        known = store.info()
        what = f"{known.images:,} image and {known.texts:,} text embeddings ({_megabytes(known.bytes)})"
        if count := traced_size(_traced())[0]:
            what += f" and what {count} models need to run without torch"
        if not yes:
            confirm_deleting(what)
        store.clear()
        shutil.rmtree(_traced(), ignore_errors=True)
    show(f"deleted {what}")


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False, debug: Debug = False
) -> None:
    """Drop what no later run can use: of files that are gone, and of models that have changed.

    clipcls cache prune --dry-run
    """
    with _store() as store:
        gone = store.prune(dry_run=dry_run)
    what = (
        f"{gone.images:,} image and {gone.texts:,} text embeddings, {gone.files:,} files and {gone.failures:,} failures"
    )
    show(f"would drop {what}" if dry_run else f"dropped {what}; {_megabytes(gone.bytes)} given back")


def traced_size(home: Path) -> tuple[int, int]:
    """How many models are traced in a folder, and the bytes that it takes beyond the models' own files."""
    files = [path for path in home.glob("[!.]*/*") if path.is_file()] if home.is_dir() else []
    # A model's weights are linked, not copied.
    return len({path.parent for path in files}), sum(path.stat().st_size for path in files if path.stat().st_nlink == 1)


def _traced() -> Path:
    from clipcls.settings import TRACED

    return Path(_folder(), TRACED)


def _folder() -> str:
    from clipcls.settings import Settings

    return str(Settings.load().cache_folder)


def _store() -> Store:
    from clipcls.store import Store

    return Store.open(Path(_folder()))


def _shown(spec: str) -> str:
    """A model by the name a person would use."""
    from clipcls.encoders.spec import parse_spec

    return "starter" if spec == parse_spec("starter").key else spec


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
