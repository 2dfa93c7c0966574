"""``clipcls doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from clipcls.cli.common import Debug, Device, Model, quiet_pipe
from clipcls.errors import ModelError


def doctor(
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Also import torch, reach the hub and use the model.")
    ] = False,
    model: Model = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Show what a maintainer would ask for: versions, devices, folders, settings."""
    from clipcls.doctor import report
    from clipcls.doctor import self_test as run_self_test
    from clipcls.settings import Settings
    from clipcls.sinks.cells import printable

    settings = Settings.load({"model": model, "device": device})
    works = True
    with quiet_pipe():
        for name, value in report(settings):
            typer.echo(f"{name}: {printable(value)}")
        for check in run_self_test(settings) if self_test else ():
            state = "ok" if check.ok else "FAILED"
            typer.echo(f"{check.what}: {state}: {printable(check.said)} ({check.seconds:.1f} s)")
            works = check.ok  # the last one is the model
    raise typer.Exit(0 if works else ModelError.exit_code)
