"""`watch`: a workflow while it runs."""

from __future__ import annotations

import sys

import click

from libsafe_nb.cli.types import AskingCommand, Seconds


@click.command(
    "watch",
    cls=AskingCommand,
    epilog="Exit codes: as the run ends: 0 completed · 1 failed · 3 could not be executed · 4 its time-out passed · 130 cancelled\n"
    "2 there is no such run · 130 Ctrl-C",
)
@click.argument("run", metavar="[RUN]", required=False)
@click.option(
    "--every",
    type=Seconds(least=0.2),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a change, each on a line.")
def watch_(run: str | None, every: float, as_json: bool) -> None:
    """Show a run and all that it called as a tree, while it goes on, until it has ended.

    RUN is a job's number, a run's id, evidence (libsafe://CONTAINER/provenance/…/), a function's key or a notebook's file name: the
    latest run of that one. Default: the newest that runs. A run of which some function made more than 40 calls tells how many of
    them wait, run and have ended, and which failed.

    On a terminal the tree is drawn in place; elsewhere each change is a line. Ctrl-C ends the view and leaves the run alone.

    \b
    Examples:
      libsafe-nb watch
      libsafe-nb watch ingest
      libsafe-nb watch 40 --json | jq -r 'select(.status == "failed") | .function'
    """
    from libsafe_nb import following
    from libsafe_nb.cli.functions import connected

    found = following.Following(connected(), following.named(run) if run else {})
    try:
        if sys.stdout.isatty() and not as_json:
            from rich.console import Console

            following.show(found, Console(), every=every)
        else:
            following.tell(found, click.echo, as_json=as_json, every=every)
    except KeyboardInterrupt:
        if found.root:
            click.echo(f"it goes on: libsafe-nb watch {found.root['job_id']}", err=True)
        raise
    if found.root["evidence"] and not as_json:
        click.echo(f"evidence  {found.root['evidence']}")
    sys.exit(found.exit_code)
