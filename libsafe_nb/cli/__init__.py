"""
The command line. A command's module is imported when it is called, and what it needs when it runs: a cell of another
language calls `job log` for each message.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from libsafe_nb import spared
from libsafe_nb.cli.types import EXIT_CODES, Group
from libsafe_nb.errors import LibsafeError

COMMANDS = {
    "run": "running:run",
    "exec": "running:exec_",
    "map": "mapping:map_",
    "new": "authoring:new_",
    "check": "authoring:check_",
    "upload": "authoring:upload_",
    "publish": "functions:publish",
    "functions": "functions:functions",
    "trigger": "trigger:trigger",
    "call": "call:call_",
    "watch": "watch:watch_",
    "open": "authoring:open_",
    "lab": "authoring:lab",
    "verify": "reading:verify_",
    "local": "platform:local",
    "job": "job:job",
    "recover": "running:recover_",
    "history": "reading:history_",
    "graph": "graph:graph_",
    "replay": "reading:replay_",
    "export": "reading:export",
    "convert": "calling:convert_",
    "serve": "calling:serve_",
    "doctor": "platform:doctor",
}
"""By name, the module in this package and the command in it."""


@click.group(
    cls=Group,
    places={name: f"{__name__}.{place}" for name, place in COMMANDS.items()},
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="libsafe-nb")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Run LIBSAFE Go functions that are notebooks, and keep a record of what happened.

    With no platform configured, a local one is started: no account, no server, no settings.
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program: an error ends it with one or two sentences on stderr and the exit code of contract 2."""
    debug = "--debug" in (arguments or sys.argv[1:])
    # Where they are installed, that is a second or two for each command that reads a notebook.
    spared.spare(*spared.JSONSCHEMA, *spared.PAPERMILL)
    try:
        sys.exit(
            cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False) or 0
        )
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(2)
    except LibsafeError as exc:
        _complain(str(exc), debug=debug)
        sys.exit(exc.exit_code)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as exc:
        # A fault of ours, or of the machine: still one sentence (contract 2).
        text = str(exc).splitlines()[0][:300] if str(exc) else ""
        _complain(f"{type(exc).__name__}: {text} (--debug shows where)", debug=debug)
        sys.exit(3)


def _complain(text: str, *, debug: bool) -> None:
    """Tell an error on stderr, without the keys of the settings: a server may have quoted one in its answer."""
    import traceback

    from libsafe_nb.check import configured_secrets

    told = f"{traceback.format_exc()}libsafe-nb: {text}" if debug else f"libsafe-nb: {text}"
    # Where the settings themselves are what is wrong, no key was read from them.
    with contextlib.suppress(LibsafeError):
        told = configured_secrets().clean(told)
    click.echo(told, err=True)
