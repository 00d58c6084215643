"""Where a person works: the container of the Lab, and the notebook that is open, as it was last saved."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from libsafe_nb.errors import NotebookError, ObjectNotFound, UsageError
from libsafe_nb.papermill_io import split

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection

CONTAINER = "LIBSAFE_NB_CONTAINER"
"""Names the container that `libsafe-nb lab` shows as its files."""

FOLDER = "LIBSAFE_NB_LAB_FOLDER"
"""Names the local folder in which the kernels of `libsafe-nb lab` work."""

SESSION = "JPY_SESSION_NAME"
"""Set by Jupyter in a notebook's kernel: the notebook's path when the kernel was started."""

VSCODE = "__vsc_ipynb_file__"
"""Set by VS Code in a notebook's namespace."""


@dataclass(frozen=True)
class Opened:
    """A notebook by the name that `libsafe_nb.run` takes, and when it was last saved."""

    name: str
    saved: datetime

    def relative(self, container: str, path: str) -> str | None:
        """The way from this notebook to a file of `container`, where the notebook lies in that container too."""
        if not self.name.startswith("libsafe://"):
            return None
        own, mine = split(self.name)
        if own != container:
            return None
        return "../" * (len(PurePosixPath(mine).parts) - 1) + path.lstrip("/")


def container() -> str | None:
    return os.environ.get(CONTAINER) or None


def title() -> str:
    """The open notebook's name without its folder, for people; where it is not known, what there is instead."""
    return Path(os.environ.get(SESSION, "")).name or "interactive session"


def opened(connection: Connection, namespace: Mapping[str, Any], name: str | None) -> Opened:
    """
    The notebook that `name` names, else the open one.

    Raises
    ------
    UsageError
        Nobody says which notebook is open.
    NotebookError
        There is no such notebook.
    """
    if not name and namespace.get(VSCODE):
        return _local(str(namespace[VSCODE]))
    given = name or os.environ.get(SESSION)
    if not given:
        raise UsageError("which notebook is open is not known here; name it: %libsafe run NOTEBOOK")
    if given.startswith("libsafe://"):
        return _stored(connection, *split(given))
    where = container()
    for path in _inside(given) if where else ():
        with contextlib.suppress(NotebookError):
            return _stored(connection, str(where), path)
    return _local(given)


def _inside(given: str) -> Iterator[str]:
    """
    Where a notebook may be in the container: beside the one that is open, then from the top.

    A kernel of the Lab works in a local folder whose places are those of the container, with no file in them.
    """
    top = os.environ.get(FOLDER)
    if top and (place := Path(given).resolve()).is_relative_to(Path(top).resolve()):
        yield place.relative_to(Path(top).resolve()).as_posix()
    # Elsewhere an absolute path is one on this machine.
    if ".." not in Path(given).parts and (top or not Path(given).is_absolute()):
        yield given.lstrip("/")


def _local(name: str) -> Opened:
    path = Path(name).expanduser()
    try:
        saved = path.stat().st_mtime
    except OSError as exc:
        raise _nowhere(name) from exc
    return Opened(str(path), datetime.fromtimestamp(saved, UTC))


def _stored(connection: Connection, container: str, path: str) -> Opened:
    address = f"libsafe://{container}/{path}"
    try:
        return Opened(address, connection.storage.head(container, path).last_modified)
    except ObjectNotFound as exc:
        raise _nowhere(address) from exc


def _nowhere(name: str) -> NotebookError:
    return NotebookError(
        f"{name}: expected a saved notebook, found none; save it first, or if it has another name by now, say which: "
        "%libsafe run NOTEBOOK",
        notebook=name,
    )
