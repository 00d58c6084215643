"""`job`: for kernels of other languages, inside a run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from libsafe_nb.errors import UsageError


@click.group()
def job() -> None:
    """For kernels of other languages, inside a run: speak to the run's job, read and write its files."""


def _call(do: str, **fields: Any) -> Any:
    from libsafe_nb import door

    path = os.environ.get(door.VARIABLE)
    if not path:
        raise UsageError(
            f"there is no run here: {door.VARIABLE} is not set; this command works in a cell of a run"
        )
    # The transfer of a file takes as long as it takes; where the run ends, so does the call.
    client = door.connect(path, timeout=None)
    try:
        return client.call(do, **fields)
    finally:
        client.close()


@job.command()
def payload() -> None:
    """Print the run's payload as JSON, without its keys."""
    click.echo(json.dumps(_call("payload"), ensure_ascii=False, indent=2))


@job.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of {id, path, size}.")
def files(as_json: bool) -> None:
    r"""List the files of the run: id, path and size, separated by tabs.

    A tab, line feed or backslash in a path is written \t, \n or \\: each file is one line.
    """
    show_files(_call("files"), as_json=as_json)


def show_files(found: list[dict[str, Any]], *, as_json: bool) -> None:
    """A line a file, or one list of JSON."""
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for each in found:
        path = (
            each["path"].replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
        )
        click.echo(f"{each['id']}\t{path}\t{each['size']}")


@job.command()
@click.argument("file_id")
@click.argument("target", metavar="[PATH]", required=False, type=click.Path(path_type=Path))
def get(file_id: str, target: Path | None) -> None:
    """Download a file of the platform to PATH, - for standard output. Default: FILE_ID in the working directory.

    Prints the path. The record tells that the file was read.
    """
    if str(target) != "-":
        place = target or Path(file_id)
        _call("get", file_id=file_id, target=str(place.absolute()))
        click.echo(str(place))
        return
    import shutil
    import tempfile

    # The runner writes the file, with keys that this process does not get.
    with tempfile.TemporaryDirectory(prefix="libsafe-nb-get-") as folder:
        place = Path(folder, "file")
        _call("get", file_id=file_id, target=str(place))
        with place.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)


@job.command()
@click.argument("source", metavar="LOCAL", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--to",
    "path",
    metavar="PATH",
    help="Path in the container; one that ends in / is a folder. Default: /NAME.",
)
def put(source: Path, path: str | None) -> None:
    """Store the file LOCAL in the run's container; other bytes at the same path become a new version.

    It is searched for keys first, and the record tells what was written.
    """
    target = path or "/"
    stored = _call(
        "put", source=str(source.absolute()), path=target + source.name if target.endswith("/") else target
    )
    what = "stored" if stored["created"] else "is there already"
    click.echo(f"libsafe://{stored['container']}/{stored['path']}  {what}  {stored['size']} bytes")


@job.command()
@click.argument("message")
@click.option("--type", "kind", default="INFO", show_default=True, help="INFO, WARNING, ERROR or DEBUG.")
@click.option("--file", "file_id", metavar="ID", help="The file that the message is about.")
def log(message: str, kind: str, file_id: str | None) -> None:
    """Write a message to the job."""
    _call("log", message=message, type=kind.upper(), file_id=file_id)


@job.command("hash")
@click.argument("file_id")
@click.argument("algorithm")
@click.argument("value")
def hash_(file_id: str, algorithm: str, value: str) -> None:
    """Store a hash of a file."""
    _call("hash", file_id=file_id, algorithm=algorithm, value=value)


@job.command()
@click.argument("file_id")
@click.argument("descriptors", nargs=-1, required=True, metavar="IECODE=VALUE...")
def metadata(file_id: str, descriptors: tuple[str, ...]) -> None:
    """Write descriptors of a file."""
    pairs = [each.partition("=") for each in descriptors]
    for code, equals, _ in pairs:
        if not equals or not code:
            raise UsageError(f"{code!r}: expected IECODE=VALUE")
    _call(
        "metadata", file_id=file_id, metadata=[{"iecode": code, "value": value} for code, _, value in pairs]
    )


@job.command()
@click.argument("fraction", type=click.FloatRange(0, 1))
def progress(fraction: float) -> None:
    """Tell how much of the work is done, from 0 to 1."""
    _call("progress", progress=fraction)


@job.command()
@click.option("--failed", is_flag=True, help="End it as FAILED; the default is COMPLETED.")
def end(failed: bool) -> None:
    """Give the function's verdict; the runner closes the job when the evidence is stored."""
    _call("end", ok=not failed)
