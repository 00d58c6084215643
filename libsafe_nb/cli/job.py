"""`job`: for kernels of other languages, inside a run."""

from __future__ import annotations

import os
from typing import Any

import click

from libsafe_nb.errors import UsageError


@click.group()
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
