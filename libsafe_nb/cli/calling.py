"""`serve`, `convert` and `export nuclio`: functions for other platforms, and from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import click

from libsafe_nb.cli.types import Seconds
from libsafe_nb.errors import UsageError


@click.command("serve")
@click.argument("functions", nargs=-1, metavar="[NAME=]FUNCTION...")
@click.option(
    "--published",
    multiple=True,
    metavar="[NAME=]KEY",
    help="A function that the platform has published, in the version that is the current one at each call; repeatable.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Port on 127.0.0.1. Default: a free one, which is printed.",
)
@click.option(
    "--running",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Calls that run at once. Default: one a core.",
)
@click.option(
    "--waiting",
    type=click.IntRange(0, 100_000),
    default=16,
    show_default=True,
    metavar="N",
    help="Calls that wait for a place; more are answered 429.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1, 64 * 1024**2),
    default=64 * 1024**2,
    show_default=True,
    metavar="BYTES",
    help="Bytes of a payload; of more the answer is 413.",
)
@click.option("--timeout", type=Seconds(), metavar="S", help="Seconds that an execution may take.")
@click.option(
    "--grace",
    type=Seconds(off=True),
    default=30,
    show_default=True,
    metavar="S",
    help="Seconds that running calls get after SIGTERM; then they are cancelled.",
)
def serve_(
    functions: tuple[str, ...],
    published: tuple[str, ...],
    port: int,
    running: int | None,
    waiting: int,
    max_body: int,
    timeout: float | None,
    grace: float,
) -> None:
    """Serve notebooks and handlers over HTTP on 127.0.0.1, called as Nuclio calls functions.

    POST the platform's payload to /NAME (by default the file's stem, or the key), or to / where there is one function. Callers send
    the header `Authorization: Bearer KEY`; the key is the secret serve_key: LIBSAFE_SECRET_SERVE_KEY,
    LIBSAFE_SECRET_SERVE_KEY_FILE or the keyring's.

    \b
    Examples:
      LIBSAFE_SECRET_SERVE_KEY_FILE=~/serve.key libsafe-nb serve relate.py hash_files.ipynb --port 8090
      LIBSAFE_SECRET_SERVE_KEY_FILE=~/serve.key libsafe-nb serve --published hash-files
    """
    from libsafe_nb import answering, serving

    if not functions and not published:
        raise UsageError("expected a FUNCTION or --published KEY, got neither")
    files, keys = _named(functions, published)
    bounds = answering.Bounds(
        running=running or serving.default_running(),
        waiting=waiting,
        body=max_body,
        timeout=timeout,
        grace=grace,
    )
    serving.serve(
        files,
        keys,
        serving.key(),
        bounds,
        port=port,
        on_ready=lambda url: click.echo(f"serving on {url}"),
    )


def _named(functions: tuple[str, ...], published: tuple[str, ...]) -> tuple[dict[str, Path], dict[str, str]]:
    """Files and keys, each by its name in the address."""
    files: dict[str, Path] = {}
    keys: dict[str, str] = {}
    for each in functions:
        name, path = _split(each)
        name = name or re.sub(r"[^\w.-]", "_", Path(path).stem)
        files[_fresh(name, each, "FUNCTION", files)] = Path(path)
    for each in published:
        name, key = _split(each)
        keys[_fresh(name or key, each, "KEY", {**files, **keys})] = key
    return files, keys


def _split(given: str) -> tuple[str, str]:
    name, equals, what = given.partition("=")
    return ("", given) if not equals or "/" in name else (name, what)


def _fresh(name: str, given: str, word: str, taken: Mapping[str, object]) -> str:
    if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII) or name in ("health", "metrics"):
        raise UsageError(
            f"{given}: expected a name of letters, digits, '.', '_' and '-', got {name!r}; use NAME={word}"
        )
    if name in taken:
        raise UsageError(f"{given}: {taken[name]} is served as {name!r} as well; use NAME={word}")
    return name


@click.command("nuclio")
@click.argument("notebook")
@click.option("--to", "target", metavar="DIR", help="Folder to write. Default: ./nuclio-STEM.")
@click.option("--force", is_flag=True, help="Overwrite files that are there already.")
def export_nuclio(notebook: str, target: str | None, force: bool) -> None:
    """Write the folder that Nuclio builds a function from: function.yaml, NOTEBOOK, requirements.txt and a Dockerfile.

    NOTEBOOK is a local notebook or handler. One in which a key is pasted is refused.

    \b
    Example:
      libsafe-nb export nuclio hash_files.ipynb --to build && nuctl deploy --path build --file build/function.yaml
    """
    from libsafe_nb.exporting import export

    path = Path(notebook)
    for each in export(path, Path(target or f"nuclio-{path.stem}"), force=force):
        click.echo(str(each))


@click.command("convert")
@click.argument("file")
@click.option(
    "--to",
    "form",
    type=click.Choice(["notebook", "handler"]),
    help="What to make. Default: a notebook of a handler, a handler of a notebook.",
)
@click.option(
    "--output",
    metavar="FILE",
    help="Where it is written. Default: beside FILE, as STEM.ipynb or STEM.py (of a .py, STEM_handler.py).",
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there already.")
def convert_(file: str, form: str | None, output: str | None, force: bool) -> None:
    """Make a parameterized notebook of a handler, or a handler of a notebook.

    A handler made so needs the vendor's libnova only. What cannot be carried over with the same meaning is refused.

    \b
    Examples:
      libsafe-nb convert relate.py
      libsafe-nb convert hash_files.ipynb --to handler
    """
    from libsafe_nb import atomic, converting, handlers, percent

    path = Path(file)
    try:
        source = path.read_bytes()
    except OSError as exc:
        raise UsageError(f"{file}: cannot be read ({exc.strerror or exc})") from exc
    is_handler = percent.is_script(file) and not percent.is_notebook(source) and handlers.is_handler(source)
    if form == ("handler" if is_handler else "notebook"):
        raise UsageError(f"{file}: is a {form} already")
    if is_handler:
        import nbformat

        text = nbformat.writes(converting.to_notebook(source, file)) + "\n"
    else:
        text = converting.to_handler(source, file)
    target = Path(output) if output else path.with_suffix(".ipynb" if is_handler else ".py")
    if not output and target == path:
        # A notebook that is kept as Python text.
        target = path.with_name(f"{path.stem}_handler.py")
    if target.exists() and not force:
        raise UsageError(f"{target}: is there already; --force overwrites it")
    try:
        atomic.write_text(target, text, None)
    except OSError as exc:
        raise UsageError(f"{target}: cannot be written ({exc.strerror or exc})") from exc
    click.echo(str(target))
