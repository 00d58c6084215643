"""
The command line. Each command imports what it needs when it runs, so `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from libsafe_nb.errors import LibsafeError, UsageError

if TYPE_CHECKING:
    from libsafe_nb.models import Run

EXIT_CODES = """\b
Exit codes: 0 COMPLETED · 1 FAILED by the function · 2 bad usage, payload or notebook: nothing started
3 could not be executed, or its evidence not be stored · 4 deadline passed · 130/143 interrupted/terminated"""


class _Group(click.Group):
    """Commands in the order of their definition, which is the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
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
        if debug:
            traceback.print_exc()
        click.echo(f"libsafe-nb: {exc}", err=True)
        sys.exit(exc.exit_code)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as exc:
        # A fault of ours, or of the machine: still one sentence (contract 2).
        if debug:
            traceback.print_exc()
        text = str(exc).splitlines()[0][:300] if str(exc) else ""
        click.echo(f"libsafe-nb: {type(exc).__name__}: {text} (--debug shows where)", err=True)
        sys.exit(3)


def _run_options(command: Any) -> Any:
    options = [
        click.option(
            "--container",
            metavar="ID",
            help="Container to work in. Default: the payload's, else the local platform's.",
        ),
        click.option(
            "--file",
            "files",
            metavar="ID_OR_PATH",
            multiple=True,
            help="A file in the container. Repeatable.",
        ),
        click.option(
            "--upload",
            "uploads",
            metavar="LOCAL",
            multiple=True,
            help="Store a local file as /NAME and run over it. Repeatable.",
        ),
        click.option(
            "--param",
            "params",
            metavar="K=V",
            multiple=True,
            help="A function parameter that the notebook declares. Repeatable.",
        ),
        click.option(
            "--payload", metavar="FILE", help="The platform's JSON payload; - reads standard input."
        ),
        click.option("--job", metavar="ID", help="An existing job. Default: the payload's, else a new one."),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="S",
            help="Seconds after which the run ends with exit code 4.",
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(epilog=EXIT_CODES)
@click.argument("notebook")
@_run_options
def run(notebook: str, **options: Any) -> None:
    """Run one function NOTEBOOK, store its evidence, end its job.

    NOTEBOOK is a local path or libsafe://CONTAINER/path.ipynb.

    \b
    Example:
      libsafe-nb run notebooks/hash_files.ipynb --upload photo.tif --upload notes.txt
    """
    _execute(notebook, script=False, **options)


@cli.command("exec", epilog=EXIT_CODES)
@click.argument("script")
@_run_options
def exec_(script: str, **options: Any) -> None:
    """Run a plain Python SCRIPT as a one-cell notebook.

    A literal assigned to json_sample or payload at the top level is replaced by the run's payload, and the record
    says so.
    """
    _execute(script, script=True, **options)


def _execute(
    notebook: str,
    *,
    script: bool,
    container: str | None,
    files: tuple[str, ...],
    uploads: tuple[str, ...],
    params: tuple[str, ...],
    payload: str | None,
    job: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    # These are checked before papermill is imported: a typing error is answered at once.
    source = _read_payload(payload)
    given = dict(_pair(each) for each in params)
    from libsafe_nb import runner
    from libsafe_nb.progress import Progress

    with Progress(notebook, quiet=as_json or not sys.stderr.isatty()) as progress:
        finished = runner.run(
            source,
            notebook,
            container=container,
            files=files,
            uploads=uploads,
            params=given,
            job=job,
            timeout=timeout,
            script=script,
            on_cell=progress.on_cell,
        )
    if as_json:
        click.echo(json.dumps(finished.to_json(), ensure_ascii=False))
    else:
        _tell(finished)
    sys.exit(finished.exit_code)


def _read_payload(name: str | None) -> bytes | None:
    if name is None:
        return None
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        raise UsageError(f"--payload {name}: cannot be read ({exc.strerror or exc})") from exc


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--param {text!r}: expected NAME=VALUE")
    return name, value


def _tell(finished: Run) -> None:
    from libsafe_nb.models import OUTCOMES, describe

    outcome = OUTCOMES[finished.status]
    click.echo(f"job {finished.job}  {outcome}  {finished.seconds:.1f} s")
    for name, value in finished.scraps.items():
        click.echo(f"  {name} = {json.dumps(value, ensure_ascii=False, default=str)[:200]}")
    if finished.evidence:
        click.echo(f"evidence  {finished.evidence}")
    if finished.error or finished.status != "completed":
        click.echo(f"libsafe-nb: {describe(finished.error)}", err=True)


@cli.group()
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


@cli.group()
def job() -> None:
    """For kernels of other languages, inside a run: speak to the run's job."""


def _door() -> Any:
    from libsafe_nb import door

    path = os.environ.get(door.VARIABLE)
    if not path:
        raise UsageError(
            f"there is no run here: {door.VARIABLE} is not set; this command works in a cell of a run"
        )
    return door.connect(path)


@job.command()
@click.argument("message")
@click.option("--type", "kind", default="INFO", show_default=True, help="INFO, WARNING, ERROR or DEBUG.")
@click.option("--file", "file_id", metavar="ID", help="The file that the message is about.")
def log(message: str, kind: str, file_id: str | None) -> None:
    """Write a message to the job."""
    _door().call("log", message=message, type=kind.upper(), file_id=file_id)


@job.command("hash")
@click.argument("file_id")
@click.argument("algorithm")
@click.argument("value")
def hash_(file_id: str, algorithm: str, value: str) -> None:
    """Store a hash of a file."""
    _door().call("hash", file_id=file_id, algorithm=algorithm, value=value)


@job.command()
@click.argument("file_id")
@click.argument("descriptors", nargs=-1, required=True, metavar="IECODE=VALUE...")
def metadata(file_id: str, descriptors: tuple[str, ...]) -> None:
    """Write descriptors of a file."""
    pairs = [each.partition("=") for each in descriptors]
    for code, equals, _ in pairs:
        if not equals or not code:
            raise UsageError(f"{code!r}: expected IECODE=VALUE")
    _door().call(
        "metadata", file_id=file_id, metadata=[{"iecode": code, "value": value} for code, _, value in pairs]
    )


@job.command()
@click.option("--failed", is_flag=True, help="End it as FAILED; the default is COMPLETED.")
def end(failed: bool) -> None:
    """Give the function's verdict; the runner closes the job when the evidence is stored."""
    _door().call("end", ok=not failed)


@cli.command()
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
