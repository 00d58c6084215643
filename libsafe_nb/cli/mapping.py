"""`map`: one function over many files."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

from libsafe_nb.cli.running import pair
from libsafe_nb.cli.types import Seconds, refusals_as_usage
from libsafe_nb.errors import UsageError

EXIT_CODES = """\b
Exit codes: 0 all files completed · 1 some failed by the function · 2 bad usage: nothing started
3 some could not be executed, or the map not go on · 4 some ran out of time · 130/143 interrupted/terminated"""
_NAME = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{8}")
_CODES = {"completed": 0, "failed": 1, "errored": 3, "timeout": 4}


@click.command("map", epilog=EXIT_CODES)
@click.argument("notebook", required=False)
@click.option("--container", metavar="ID", help="Whose files. Default: the local platform's container.")
@click.option(
    "--each",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="Files of a batch, which is one run of the notebook.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes on this machine. Default: three for two cores.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Run on a Dask cluster: its scheduler's address (tcp://…), or local for one on this machine.",
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[MAP]",
    help="Go on with a map that was interrupted: MAP, else the last one of NOTEBOOK that is not finished.",
)
@click.option(
    "--path", "path_regex", metavar="REGEX", help="Searched in the path, which begins with a slash."
)
@click.option("--name", "name_regex", metavar="REGEX", help="Searched in the file's name.")
@click.option("--mime", metavar="PATTERN", help="Such as image/tiff or image/*.")
@click.option("--size-min", type=click.IntRange(0), metavar="BYTES", help="Leave smaller files out.")
@click.option("--size-max", type=click.IntRange(0), metavar="BYTES", help="Leave larger files out.")
@click.option("--param", "params", metavar="K=V", multiple=True, help="A function parameter. Repeatable.")
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=2,
    show_default=True,
    metavar="N",
    help="How often one file whose run could not be executed is tried again, alone.",
)
@click.option("--timeout", type=Seconds(), metavar="S", help="Seconds that each run may take.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
def map_(
    notebook: str | None,
    container: str | None,
    each: int,
    workers: int | None,
    dask: str | None,
    resume: str | None,
    params: tuple[str, ...],
    retries: int,
    timeout: float | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Run one function NOTEBOOK over the files of a container, in batches, on many processes or machines.

    Each batch is a run with a job and evidence of its own, under one parent job. A batch that does not complete is taken
    apart, down to single files; those that remain are listed in failed.csv, in the container. Killed at any instant it goes
    on with --resume, and no batch that ended is run again.

    \b
    Examples:
      libsafe-nb map hash_files.ipynb --container 12 --each 200 --mime 'image/*'
      libsafe-nb map hash_files.ipynb --container 12 --dask tcp://head:8786
      libsafe-nb map hash_files.ipynb --container 12 --resume
    """
    if resume and not _NAME.fullmatch(resume):
        if notebook is not None:
            raise UsageError(
                f"--resume {resume!r}: expected a map's name, such as 20261126T101500000Z-1a2b3c4d"
            )
        # `--resume NOTEBOOK`: the option takes the next word.
        notebook, resume = resume, ""
    if resume is not None and (params or any(value is not None for value in chosen.values())):
        raise UsageError(
            "--resume: a map goes on with the files and parameters that it began with; leave them out"
        )
    if notebook is None and resume is None:
        raise UsageError("expected a NOTEBOOK, got none")
    given = dict(pair(each) for each in params)
    if dask is None:
        from libsafe_nb import crew

        # First of all: it imports for the workers what this process imports below for itself, on another core.
        crew.ready("libsafe_nb.mapping.warm")
    from libsafe_nb.mapping import running
    from libsafe_nb.mapping.choosing import Chosen
    from libsafe_nb.mapping.shown import Shown
    from libsafe_nb.plan import DEFAULT_CONTAINER

    with Shown(quiet=as_json or not sys.stderr.isatty()) as shown, refusals_as_usage():
        told = running.run(
            notebook,
            container=container or DEFAULT_CONTAINER,
            each=each,
            workers=workers,
            dask=dask,
            resumed=resume,
            params=given,
            chosen=Chosen(**chosen),
            retries=retries,
            timeout=timeout,
            show=shown.show,
            hint=lambda text: click.echo(f"libsafe-nb: {text}", err=True),
        )
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False))
    else:
        _tell(told)
    sys.exit(_CODES[told["status"]])


def _tell(told: dict[str, Any]) -> None:
    click.echo(f"job {told['job']}  {told['outcome']}  {told['seconds']:.1f} s")
    files = ", ".join(f"{count} {name}" for name, count in told["files"].items() if name != "total")
    click.echo(f"map {told['map']}: {files} of {told['files']['total']} files, in {told['batches']} batches")
    if told["failed_csv"]:
        click.echo(f"failed  {told['failed_csv']}")
