"""`local` and `doctor`: the platform, and what is configured, reachable and installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.group()
def local() -> None:
    """The local platform: an embedded LIBSAFE Go with a real S3 server."""


_ROOT = click.option("--root", metavar="DIR", help="Folder of its state. Default: $LIBSAFE_NB_HOME/platform.")


def _root(root: str | None) -> Path:
    from libsafe_nb import settings

    return Path(root).absolute() if root else settings.home() / "platform"


@local.command()
@_ROOT
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Port of the REST API. Default: a free one.",
)
def serve(root: str | None, port: int) -> None:
    """Serve in the foreground until interrupted.

    Writes ROOT/platform.json (mode 0600) with the addresses and keys, and removes it at the end.
    """
    from libsafe_nb import local as platform

    platform.run_foreground(_root(root), port)


@local.command()
@_ROOT
def status(root: str | None) -> None:
    """Print the platform's state as JSON; exit 3 if it is not running."""
    from libsafe_nb import local as platform

    state = platform.status(_root(root))
    click.echo(json.dumps(state, indent=2))
    sys.exit(0 if state.get("running") else 3)


@local.command()
@_ROOT
def stop(root: str | None) -> None:
    """Stop it, its S3 server included."""
    from libsafe_nb import local as platform

    stopped = platform.stop(_root(root))
    click.echo("stopped" if stopped else "was not running")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of {name, ok, found, remedy}.")
def doctor(as_json: bool) -> None:
    """Tell what is configured, reachable and installed, and what to do about what is not."""
    from libsafe_nb.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([each.to_json() for each in findings], indent=2))
    else:
        for each in findings:
            click.echo(f"{'ok  ' if each.ok else 'FAIL'}  {each.name}: {each.found}")
            if each.remedy:
                click.echo(f"      {each.remedy}")
    sys.exit(0 if all(each.ok for each in findings) else 3)
