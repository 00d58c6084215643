"""`new`, `check`, `upload`, `open` and `lab`: a notebook before it runs, and what is there to look at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from libsafe_nb import spared
from libsafe_nb.errors import UsageError


@click.command("new")
@click.argument("name", required=False)
@click.option(
    "--template",
    "template_name",
    default="blank",
    show_default=True,
    metavar="T",
    help="What it begins from.",
)
@click.option("--title", metavar="TEXT", help="Its title. Default: NAME in words.")
@click.option("--list", "listing", is_flag=True, help="List the templates and what each does.")
def new_(name: str | None, template_name: str, title: str | None, listing: bool) -> None:
    """Begin a function: write NAME.ipynb from a template, with its title and key.

    NAME is a local path or libsafe://CONTAINER/path; one that ends in .py is written as Python text with '# %%' cells.
    What is there already is never overwritten. With the template workflow the two functions that it calls are begun beside it.

    \b
    Examples:
      libsafe-nb new count_pages --template per_file
      libsafe-nb new take_in --template workflow
      libsafe-nb new libsafe://12/functions/count_pages.ipynb
    """
    from libsafe_nb import new, template

    if listing:
        for each in template.names():
            click.echo(f"{each:10} {template.describe(each)}")
        return
    if name is None:
        raise UsageError("new: expected a NAME, such as count_pages; --list tells the templates")
    place = new.new(name, template_name=template_name, title=title)
    click.echo(place)
    for each in new.parts(place, template_name):
        click.echo(each)


@click.command("check", epilog="Exit codes: 0 nothing found · 1 findings · 2 a notebook cannot be read")
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list of {file, cell, line, code, message}."
)
def check_(notebooks: tuple[str, ...], as_json: bool) -> None:
    """Find what is wrong with notebooks before they run: keys, parameters, order, imports, paths, jobs not ended.

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
    """Store files in a container, as /FOLDER/NAME; of a folder all that lies in it.

    Equal bytes are not stored again, others become a new version. A notebook in which a key is pasted is refused.
    """
    from libsafe_nb.upload import upload

    for each in upload(files, container=container, folder=folder):
        what = "stored" if each.created else "is there already"
        click.echo(f"libsafe://{each.container}/{each.path}  {what}  {each.size} bytes")


@click.command("open")
@click.argument("what", metavar="LIBSAFE_URL|FOLDER")
@click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    default=".",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the copy is written. Default: the working directory.",
)
@click.option(
    "--lab", "in_lab", is_flag=True, help="Open it in the Lab, where it lies, in place of copying it."
)
@click.option("--no-browser", is_flag=True, help="Print where it is, and show it nowhere.")
def open_(what: str, folder: Path, in_lab: bool, no_browser: bool) -> None:
    """Copy a file of a container here, open it in the Lab, or show the report of a run.

    libsafe://CONTAINER/path is copied under its own name, and its path and version are printed. A copy that was changed
    is not overwritten. Of the evidence of a run, libsafe://CONTAINER/provenance/.../ or a local copy of it, the report
    is opened in the browser.
    """
    from libsafe_nb import opening

    if in_lab:
        from libsafe_nb.papermill_io import split

        container, file = split(what)
        _serve_lab(container, port=0, browser=not no_browser, file=file)
        return
    if not opening.is_evidence(what):
        if not what.startswith("libsafe://"):
            raise UsageError(
                f"{what}: expected libsafe://CONTAINER/path, or a folder with the evidence of a run"
            )
        found = opening.copy(what, folder)
        state = "" if found.created else "  is there already"
        click.echo(f"{found.path}  version {found.version_id}  {found.size} bytes{state}")
        return
    path = opening.report(what, folder).absolute()
    click.echo(str(path))
    if not no_browser:
        import webbrowser

        if not webbrowser.open(path.as_uri()):
            raise UsageError(
                f"{path}: no browser was found to show it; open it in yours, or give --no-browser"
            )


@click.command("lab")
@click.argument("container", required=False)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8888, show_default=True, help="0: any that is free."
)
@click.option("--browser/--no-browser", default=True, help="Open it in a browser.  [default: browser]")
def lab(container: str | None, port: int, browser: bool) -> None:
    """Open JupyterLab on a CONTAINER: its files are those that the Lab shows, opens and saves.

    Without CONTAINER it is LIBSAFE_NB_CONTAINER, else the local platform's default. It listens on 127.0.0.1 only, and wants
    the token that is in the address it prints. Needs the extra `lab`.
    """
    _serve_lab(container, port=port, browser=browser, file=None)


def _serve_lab(container: str | None, *, port: int, browser: bool, file: str | None) -> None:
    import importlib.util

    if importlib.util.find_spec("jupyterlab") is None:
        raise UsageError(
            "the Lab needs jupyterlab, which is not installed; run: pip install 'libsafe-nb[lab]'"
        )
    from libsafe_nb.jupyter.lab import serve

    # The server is Jupyter's, and gets what it asks for.
    spared.give_back(*spared.JSONSCHEMA)
    serve(container, port=port, browser=browser, file=file)
