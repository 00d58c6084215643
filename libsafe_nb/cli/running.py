"""`run`, `exec` and `recover`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from libsafe_nb.cli.types import EXIT_CODES, Seconds, Size
from libsafe_nb.errors import UsageError

if TYPE_CHECKING:
    from libsafe_nb.models import Run


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
            type=Seconds(),
            metavar="S",
            help="Seconds after which the run ends with exit code 4.",
        ),
        click.option(
            "--cell-timeout",
            type=Seconds(),
            metavar="S",
            help="Seconds that any one cell may take; then the run ends with exit code 4. Default: no limit.",
        ),
        click.option(
            "--hung",
            type=Seconds(least=1, off=True),
            default=60,
            show_default=True,
            metavar="S",
            help="Seconds without a sign of life from the kernel's process (not from the cell, which may compute as "
            "long as it likes), after which it is killed: exit code 3. 0: wait for ever.",
        ),
        click.option(
            "--memory",
            type=Size(),
            metavar="SIZE",
            help="Address space of the kernel and of each process that it starts, with K, M or G. A Python kernel "
            "reserves about 1G at rest; beyond the limit a cell gets a MemoryError. Default: no limit.",
        ),
        click.option(
            "--cpu",
            type=click.IntRange(1, 2**31 - 1),
            metavar="S",
            help="Seconds of processor time of the kernel and of each process that it starts, after which it is "
            "killed: exit code 3. Default: no limit.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, 1000),
            metavar="N",
            help="Of a workflow: its calls are run by N processes of this run. Default: by the platform's workers.",
        ),
        click.option(
            "--dask",
            metavar="ADDRESS",
            help="The same by the workers of a Dask cluster: tcp://HOST:PORT of its scheduler, or local.",
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(epilog=EXIT_CODES)
@click.argument("notebook")
@_run_options
def run(notebook: str, **options: Any) -> None:
    """Run one function NOTEBOOK, store its evidence, end its job.

    NOTEBOOK is a local path or libsafe://CONTAINER/path.ipynb; a .py with `# %%` cells, or with def handler(context, event),
    will do.

    \b
    Example:
      libsafe-nb run notebooks/hash_files.ipynb --upload photo.tif --upload notes.txt
    """
    _execute(notebook, script=False, **options)


@click.command("exec", epilog=EXIT_CODES)
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
    cell_timeout: float | None,
    hung: float,
    memory: int | None,
    cpu: int | None,
    workers: int | None,
    dask: str | None,
    as_json: bool,
) -> None:
    # These are checked before papermill is imported: a typing error is answered at once.
    source = _read_payload(payload)
    given = dict(pair(each) for each in params)
    from libsafe_nb import forking, runner
    from libsafe_nb.execution import Limits
    from libsafe_nb.progress import Progress

    limits = Limits(cell_timeout=cell_timeout, hung=hung or None, memory=memory, cpu=cpu)
    with Progress(notebook, quiet=as_json or not sys.stderr.isatty()) as progress, forking.once():
        finished = runner.run(
            source,
            notebook,
            container=container,
            files=files,
            uploads=uploads,
            params=given,
            job=job,
            timeout=timeout,
            limits=limits,
            script=script,
            on_cell=progress.on_cell,
            workers=workers,
            dask=dask,
        )
    if as_json:
        click.echo(json.dumps(finished.to_json(), ensure_ascii=False))
    else:
        _tell(finished)
    _tell_error(finished)
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


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--param {text!r}: expected NAME=VALUE")
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        raise UsageError(f"--param {name}: expected text, got bytes that are none")
    return name, value


def _tell(finished: Run) -> None:
    from libsafe_nb.models import OUTCOMES

    outcome = OUTCOMES[finished.status]
    click.echo(f"job {finished.job}  {outcome}  {finished.seconds:.1f} s")
    for name, value in finished.scraps.items():
        click.echo(f"  {name} = {json.dumps(value, ensure_ascii=False, default=str)[:200]}")
    if finished.evidence:
        click.echo(f"evidence  {finished.evidence}")


def _tell_error(finished: Run) -> None:
    """On stderr, with --json as well (contract 2)."""
    from libsafe_nb.models import describe

    if finished.error or finished.status != "completed":
        click.echo(f"libsafe-nb: {describe(finished.error)}", err=True)


@click.command("recover")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--abandon",
    is_flag=True,
    help="Close the jobs of runs that cannot be finished as FAILED, without evidence; what there is of it is kept.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON list of {run, job, container, status, evidence, message}.",
)
def recover_(runs: tuple[str, ...], abandon: bool, as_json: bool) -> None:
    """Finish what interrupted runs left behind: store their evidence, end their jobs.

    Without RUN: all of this machine's, and those in the containers you may see whose machine is lost. Safe to repeat
    and to run twice at once; `run` does it for this machine's runs before it starts. Exit code 3 if a run still waits.
    """
    from libsafe_nb import recover as recovery

    found = []
    for each in recovery.recover(runs, abandon=abandon):
        found.append(each)
        if not as_json:
            click.echo(f"run {each.run}  job {each.job or '-'}  {each.status.upper()}: {each.message}")
            if each.evidence:
                click.echo(f"  evidence  {each.evidence}")
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], ensure_ascii=False, indent=2))
    elif not found:
        click.echo("nothing to recover")
    sys.exit(0 if all(each.done for each in found) else 3)
