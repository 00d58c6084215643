"""
The command line. Each command imports what it needs when it runs, so `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from libsafe_nb.cli import authoring, calling, functions, job, mapping, platform, reading, running, trigger
from libsafe_nb.cli.types import Group
from libsafe_nb.errors import LibsafeError


@click.group(cls=Group, epilog=running.EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="libsafe-nb")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Run LIBSAFE Go functions that are notebooks, and keep a record of what happened.

    With no platform configured, a local one is started: no account, no server, no settings.
    """
    ctx.obj = {"debug": debug}


for command in (
    running.run,
    running.exec_,
    mapping.map_,
    authoring.new_,
    authoring.check_,
    authoring.upload_,
    functions.publish,
    functions.functions,
    trigger.trigger,
    authoring.open_,
    authoring.lab,
    reading.verify_,
    platform.local,
    job.job,
    running.recover_,
    reading.history_,
    reading.replay_,
    reading.export,
    calling.convert_,
    calling.serve_,
    platform.doctor,
):
    cli.add_command(command)
reading.export.add_command(calling.export_nuclio)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program: an error ends it with one or two sentences on stderr and the exit code of contract 2."""
    debug = "--debug" in (arguments or sys.argv[1:])
    # Where JupyterLab is installed, jsonschema, which nbformat loads, builds a grammar of IRIs when it is imported: a second
    # and 25 MB, for a format that no notebook has. It does without where there is none.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
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
    from libsafe_nb.check import configured_secrets

    told = f"{traceback.format_exc()}libsafe-nb: {text}" if debug else f"libsafe-nb: {text}"
    # Where the settings themselves are what is wrong, no key was read from them.
    with contextlib.suppress(LibsafeError):
        told = configured_secrets().clean(told)
    click.echo(told, err=True)
