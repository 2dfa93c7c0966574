"""``clipcls models pull|trace|export|import|remove``: whole models had, made ready, given away."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipcls.cli.common import confirm_deleting, say
from clipcls.cli.options import Debug

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Name = Annotated[
    str, typer.Argument(help="An alias (clipcls models list), ARCH/TAG, hf-hub:ORG/REPO, hf:ORG/REPO, or a folder.")
]
"""A model on the command line."""
Endpoint = Annotated[
    str | None, typer.Option(metavar="URL", help="A mirror of the hub, such as https://hf-mirror.com (or HF_ENDPOINT).")
]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no hub: use what is on disk (or HF_HUB_OFFLINE=1).")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``clipcls models``."""
    app.command()(pull)
    app.command()(trace)
    app.command()(export)
    app.command("import")(import_)
    app.command()(remove)


def pull(
    name: Name,
    endpoint: Endpoint = None,
    offline: Offline = False,
    renew: Annotated[bool, typer.Option("--renew", help="Ask for a newer version of what is on disk.")] = False,
    debug: Debug = False,
) -> None:
    """Download all that a model needs; a download that was cut off goes on where it ended.

    clipcls models pull xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k --endpoint https://hf-mirror.com
    """
    from clipcls.encoders.hub import use_hub
    from clipcls.encoders.transfer import pull
    from clipcls.settings import Settings

    use_hub(endpoint, offline=offline)
    began = time.perf_counter()
    with download_bar() as downloads:
        done = pull(name, renew=renew, traced=Settings.load().traced_folder)
    size = f"{done.files} files, {done.size / 1e6:,.1f} MB"
    if downloads.received:
        seconds = time.perf_counter() - began
        say(f"{name}: {size}, of which {downloads.received / 1e6:,.1f} MB came in {seconds:.1f} s")
    else:
        say(f"{name} is on disk: {size} in {done.folder}")


def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it; a new folder, or an empty one.")],
    endpoint: Endpoint = None,
    offline: Offline = False,
    debug: Debug = False,
) -> None:
    """Write a model to a folder that needs nothing else, for a machine without a network.

    What lets it run without torch goes along. There, --model DIR takes it as it is, and clipcls models import DIR gives
    it a name.

    clipcls models export xlmr-b32 ./xlmr-folder
    """
    from clipcls.encoders.hub import use_hub
    from clipcls.encoders.transfer import export
    from clipcls.settings import Settings

    use_hub(endpoint, offline=offline)
    with download_bar():
        done = export(name, folder, traced=Settings.load().traced_folder)
    say(f"wrote {done.folder}: {done.files} files, {done.size / 1e6:,.1f} MB; --model {done.folder} takes it")


def trace(
    name: Name,
    int8: Annotated[bool, typer.Option("--int8", help="For --precision int8, which takes weights of its own.")] = False,
    debug: Debug = False,
) -> None:
    """Prepare a model to run on the CPU without torch; otherwise its first use does it.

    clipcls models trace xlmr-b32
    """
    from clipcls.encoders.transfer import trace
    from clipcls.settings import TRACED, Settings

    with download_bar():
        folder = trace(name, "int8" if int8 else "fp32", Settings.load({"trace": True}).cache_folder / TRACED)
    say(f"{name} runs without torch: {folder}")


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What clipcls models export wrote.")],
    name: Annotated[str | None, typer.Option(help="What to call it; the folder's name if not given.")] = None,
    debug: Debug = False,
) -> None:
    """Copy an exported model to where --model NAME finds it, after a check that it came whole.

    clipcls models import ./xlmr-folder
    """
    from clipcls.encoders.transfer import import_

    called, done = import_(folder, name)
    say(f"--model {called} is this model now: {done.files} files, {done.size / 1e6:,.1f} MB in {done.folder}")


def remove(
    name: Annotated[str, typer.Argument(help="The name that it was imported under.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: Debug = False,
) -> None:
    """Delete a model that was imported; any other lies in the cache of its hub (clipcls models path).

    clipcls models remove xlmr-folder
    """
    from clipcls.encoders.transfer import removable, remove

    folder = removable(name)
    if not yes:
        confirm_deleting(str(folder))
    say(f"deleted {remove(name)}")


class Downloads:
    """Follows downloads: counts what comes, and draws it on a terminal."""

    def __init__(self) -> None:
        self.received = 0
        self._bar: Progress | None = None
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._done: dict[tuple[str, str], int] = {}

    def follow(self, repo: str, name: str, done: int, size: int | None) -> None:
        """One step of one file."""
        file = repo, name
        # What was there before, at the first step of an attempt, did not come now.
        self.received += max(0, done - self._done.get(file, done))
        self._done[file] = done
        if sys.stderr.isatty():
            self._draw(file, done, size)

    def close(self) -> None:
        """Take the bar from the terminal."""
        if self._bar:
            self._bar.stop()

    def _draw(self, file: tuple[str, str], done: int, size: int | None) -> None:
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
        if file not in self._tasks:
            self._tasks[file] = self._bar.add_task(file[1], total=size, completed=done)
        self._bar.update(self._tasks[file], completed=done, total=size)


@contextmanager
def download_bar() -> Iterator[Downloads]:
    """On a terminal a bar for each file that is downloaded meanwhile: bytes, speed, time left."""
    from clipcls.encoders.following import following

    downloads = Downloads()
    with following(downloads.follow):
        try:
            yield downloads
        finally:
            downloads.close()


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
