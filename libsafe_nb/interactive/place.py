"""Where a person works: the container of the Lab, and the notebook that is open, as it was last saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from libsafe_nb.errors import NotebookError, ObjectNotFound, UsageError
from libsafe_nb.papermill_io import split

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection
    from libsafe_nb.shapes import Condition

CONTAINER = "LIBSAFE_NB_CONTAINER"
"""Names the container that `libsafe-nb lab` shows as its files."""

FOLDER = "LIBSAFE_NB_LAB_FOLDER"
"""Set by `libsafe-nb lab`: the local folder in which a notebook's place is its place in the container."""

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
    if where is None:
        return _local(given)
    lab = os.environ.get(FOLDER)
    if not name and lab and Path(given).is_relative_to(lab):
        return _stored(connection, where, str(Path(given).relative_to(lab)))
    # Jupyter puts the kernel's folder before the name, and leaves out those that it does not find on its own disk.
    whole = bool(name) or not Path(given).is_absolute()
    path = (_anywhere(connection, where, PurePosixPath(given).name) if not whole else None) or _inside(given)
    try:
        return _stored(connection, where, path)
    except NotebookError:
        if name and Path(name).is_file():
            return _local(name)
        raise


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


def _inside(path: str) -> str:
    """A path of Jupyter's as one in the container: the folder that comes first is the server's."""
    here = Path.cwd()
    return os.path.relpath(path, here) if Path(path).is_relative_to(here) else path.lstrip("/")


def _anywhere(connection: Connection, container: str, name: str) -> str | None:
    """The path of the one notebook of that name in the container, evidence aside; None where none is known yet."""
    conditions: list[Condition] = [
        {"property": "container_id", "operator": "eq", "value": container},
        {"property": "filename", "operator": "eq", "value": name},
    ]
    rows = connection.client.search(conditions)
    found = sorted(each["fullpath"] for each in rows if not each["fullpath"].startswith("/provenance/"))
    if len(found) > 1:
        raise UsageError(
            f"{name}: expected one notebook of that name in container {container}, found {len(found)} "
            f"({', '.join(found[:3])}); say which is meant: %libsafe run NOTEBOOK"
        )
    return found[0].lstrip("/") if found else None
