"""papermill's own program reads and writes `libsafe://CONTAINER/path` through this handler (contract 7)."""

from __future__ import annotations

from libsafe_nb import notebook, percent
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import NotebookError
from libsafe_nb.objects import refuse_evidence


class LibsafeHandler:
    """
    papermill's input/output plug-in. The connection is made at the first use, so that registering costs nothing.

    A notebook in percent format (`.py`) is read as the notebook that it is. Writing replaces what is at the path with a new version; the bucket keeps the old one.
    """

    def __init__(self) -> None:
        self._connection: Connection | None = None

    def read(self, path: str) -> str:
        container, inside = split(path)
        source = self._open().storage.get(container, inside)
        if percent.is_script(path):
            # papermill reads JSON only.
            import nbformat

            return str(nbformat.writes(notebook.read(source, name=path)))
        return source.decode()

    def write(self, buf: str, path: str) -> None:
        container, inside = split(path)
        refuse_evidence(inside)
        self._open().storage.put(container, inside, buf.encode(), content_type="application/x-ipynb+json")

    def listdir(self, path: str) -> list[str]:
        container, inside = split(path)
        found = self._open().storage.list(container, inside)
        return [f"libsafe://{container}/{each.path.lstrip('/')}" for each in found]

    def pretty_path(self, path: str) -> str:
        return path

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = connect()
        return self._connection


def split(address: str) -> tuple[str, str]:
    """
    `libsafe://12/a/b.ipynb` as `("12", "a/b.ipynb")`.

    Raises
    ------
    NotebookError
        No container or no path in it.
    """
    container, _, path = address.removeprefix("libsafe://").partition("/")
    if not container.isdigit() or not path:
        raise NotebookError(f"{address}: expected libsafe://CONTAINER/path", notebook=address)
    return container, path


HANDLER = LibsafeHandler()
"""What papermill's entry point names: papermill takes the object itself and does not call it."""
