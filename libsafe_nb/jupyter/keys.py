"""No key gets into the container with a save: a version there is there to stay."""

from __future__ import annotations

import json

from libsafe_nb import check, notebook, percent
from libsafe_nb.checking.examined import Examined
from libsafe_nb.connection import Connection
from libsafe_nb.errors import NotebookError, SecretFound
from libsafe_nb.redact import SecretSet, scan_document
from libsafe_nb.secrets import SAMPLE_KEY, Secret, weakness

LARGEST = 16 * 1024 * 1024
"""Bytes of a file that is no notebook and is looked through; a larger one is data, and no text that somebody types."""


def known(connection: Connection) -> SecretSet:
    """The keys of a connection; those that are too weak to be told from ordinary text are left out."""
    return SecretSet(
        Secret(name, value)
        for name, value in connection.secrets().items()
        if value != SAMPLE_KEY and not weakness(value)
    )


def refuse(path: str, data: bytes, secrets: SecretSet) -> None:
    """
    Raises
    ------
    NotebookError
        A key, known or by its looks, is pasted in a notebook, be it kept as Python text.
    SecretFound
        A known key stands in another file, or in what is called a notebook and is none.
    """
    if path.endswith(".ipynb") or (percent.is_script(path) and percent.is_notebook(data)):
        try:
            book = json.loads(json.dumps(notebook.read(data, name=path)))
        except NotebookError:
            # Whoever opens it is told that it is none.
            pass
        else:
            found = check.examine(Examined(path, book, secrets), codes=check.KEYS)
            if found:
                more = f", and {len(found) - 1} more" if len(found) > 1 else ""
                raise NotebookError(
                    f"{found[0]}{more}. Nothing was saved: take it out, and save again", notebook=path
                )
            return
    elif len(data) > LARGEST:
        return
    hits = scan_document(secrets, data, name=path).hits
    if hits:
        names = ", ".join(sorted({each.name for each in hits}))
        raise SecretFound(
            f"{path}: {names} of the settings stands in it. Nothing was saved: take it out, and save again",
            name=names,
        )
