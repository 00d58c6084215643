"""`check` and `upload`: a notebook before it runs."""

from __future__ import annotations

import json
import sys

import click


@click.command("check", epilog="Exit codes: 0 nothing found · 1 findings · 2 a notebook cannot be read")
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list of {file, cell, line, code, message}."
)
def check_(notebooks: tuple[str, ...], as_json: bool) -> None:
    """Find keys pasted in notebooks, and descriptions that are not whole, before they are uploaded or published.

    Prints FILE:CELL:LINE: CODE MESSAGE for each; cells are counted from 1. The codes are in docs/check.md.
    """
    from libsafe_nb import check
    from libsafe_nb.errors import NotebookError

    secrets = check.configured_secrets()
    found, unreadable = [], False
    for name in notebooks:
        try:
            found += check.check(name, secrets=secrets)
        except NotebookError as exc:
            # The others are still worth checking.
            click.echo(f"libsafe-nb: {exc}", err=True)
            unreadable = True
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], ensure_ascii=False, indent=2))
    else:
        for each in found:
            click.echo(str(each))
    sys.exit(2 if unreadable else 1 if found else 0)


@click.command("upload")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--container", metavar="ID", help="Container to store in. Default: the local platform's.")
@click.option(
    "--to", "folder", metavar="FOLDER", default="", help="Folder in the container. Default: its top."
)
def upload_(files: tuple[str, ...], container: str | None, folder: str) -> None:
    """Store files in a container, as /FOLDER/NAME.

    Equal bytes are not stored again, others become a new version. A notebook in which a key is pasted is refused.
    """
    from libsafe_nb.upload import upload

    for each in upload(files, container=container, folder=folder):
        what = "stored" if each.created else "is there already"
        click.echo(f"libsafe://{each.container}/{each.path}  {what}  {each.size} bytes")
