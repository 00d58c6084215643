"""
`%libsafe run | files | job`: the command line's words in a notebook.

Each answers with one display, or with one sentence that says what is wrong: no traceback.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from typing import TYPE_CHECKING, Any

from libsafe_nb.door import VARIABLE

if TYPE_CHECKING:
    import click

WORDS = ("run", "files", "job")

WITHIN = "%libsafe does nothing inside a run: this notebook is being run already, and a run in it would run it once more."


def magic(line: str) -> None:
    """`%libsafe`: run the open notebook as a function, list the container's files, show a job. `%libsafe --help`."""
    import click
    from IPython.core.error import UsageError

    if os.environ.get(VARIABLE):
        print(WITHIN)
        return
    try:
        words = shlex.split(line)
        _commands().main(args=words or ["--help"], prog_name="%libsafe", standalone_mode=False)
    except click.ClickException as exc:
        raise UsageError(f"{exc.format_message()} (%libsafe --help tells more)") from None
    except UsageError:
        raise
    except (click.Abort, KeyboardInterrupt):
        # click makes the one of the other. Of a run that was under way, its own sentence has told.
        raise UsageError("stopped") from None
    except Exception as exc:
        raise UsageError(_sentence(exc)) from None


def completions(shell: Any, event: Any) -> list[str]:
    """The sub-commands, for the tabulator key."""
    return list(WORDS) if len(event.line.split()) <= 1 + (not event.line.endswith(" ")) else []


def _sentence(exc: Exception) -> str:
    """One sentence about an error, without the keys of the settings: a server may have quoted one in its answer."""
    from libsafe_nb.check import configured_secrets
    from libsafe_nb.errors import LibsafeError

    text = str(exc)
    if isinstance(exc, ValueError) and not isinstance(exc, LibsafeError):
        text = f"%libsafe: {text}"
    elif not isinstance(exc, LibsafeError):
        # A fault of ours, or of the machine.
        text = f"{type(exc).__name__}: {text.splitlines()[0][:300] if text else ''}"
    # Where the settings themselves are what is wrong, no key was read from them.
    with contextlib.suppress(LibsafeError):
        text = configured_secrets().clean(text)
    return text


def _commands() -> click.Group:
    # Imported and made when first used: a kernel's start must not wait for it.
    import click

    from libsafe_nb.interactive import look, running

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    def libsafe() -> None:
        """LIBSAFE Go in this notebook."""

    @libsafe.command()
    @click.argument("notebook", required=False)
    @click.option(
        "--container",
        metavar="ID",
        help="Container to work in. Default: the Lab's, else the local platform's.",
    )
    @click.option(
        "--file", "files", metavar="ID_OR_PATH", multiple=True, help="A file in the container. Repeatable."
    )
    @click.option(
        "--upload",
        "uploads",
        metavar="LOCAL",
        multiple=True,
        help="Store a local file as /NAME and run over it. Repeatable.",
    )
    @click.option(
        "--param",
        "params",
        metavar="K=V",
        multiple=True,
        help="A parameter that the notebook declares. Repeatable.",
    )
    @click.option("--timeout", type=float, metavar="S", help="Seconds after which the run is ended.")
    def run(notebook: str | None, **options: Any) -> None:
        """Run the open notebook, as it was last saved, in a fresh kernel and keep its evidence.

        NOTEBOOK is another one to run: a path, or libsafe://CONTAINER/path.ipynb. The stop button cancels the run.
        """
        running.run(notebook, **options)

    @libsafe.command()
    @click.argument("pattern", required=False)
    @click.option("--container", metavar="ID", help="Another container.")
    def files(pattern: str | None, container: str | None) -> None:
        """List the container's files: all, or those whose path or name fits PATTERN (*.tif, /scans/*).

        Evidence (/provenance/) is listed where PATTERN names it.
        """
        look.files(pattern, container=container)

    @libsafe.command()
    @click.argument("id", required=False, metavar="[ID]")
    def job(id: str | None) -> None:
        """Show a job and its messages: that of libsafe_nb.payload() or of the last run, or any by its ID."""
        look.job(id)

    return libsafe
