"""``clipcls doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipcls.cli.common import quiet_pipe
from clipcls.cli.options import Debug, Device, Model
from clipcls.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from clipcls.settings import Settings


def doctor(
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Also import torch, reach the hub and use the model.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also compare the model's precisions: how fast, how near to fp32.")
    ] = False,
    model: Model = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Show what a maintainer would ask for: versions, devices, folders, settings.

    clipcls doctor --self-test
    """
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
        if probe:
            _show_probe(settings)
    raise typer.Exit(0 if works else ModelError.exit_code)


def _show_probe(settings: Settings) -> None:
    """A row for each precision that the device has."""
    from clipcls.cli.tables import Column, show_table
    from clipcls.encoders.agreement import agreements

    rows = []
    for precision in ("int8", "bf16", "fp16"):
        try:
            found = next(agreements(settings.model, [precision], settings.device, settings.traced_folder))
        except DeviceError:  # it does not have this one
            continue
        shares = (f"{found.images:.5f}", f"{found.centred:.5f}", f"{found.same:.1%} of {found.pictures}")
        rows.append((found.precision, f"{found.faster:.2f}", *shares, "yes" if found.worth_it else "no"))
    columns = ("times as fast as fp32", "least cosine", "less the mean", "same best label")
    show_table((Column("precision"), *(Column(name, right=True) for name in columns), Column("worth it")), rows)
