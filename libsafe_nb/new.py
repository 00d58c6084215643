"""A new function from a template: on this disk or in a container, and never in the place of something else."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from libsafe_nb import percent, template
from libsafe_nb.connection import connect
from libsafe_nb.errors import PreconditionFailed, UsageError
from libsafe_nb.evidence import TYPES, slug
from libsafe_nb.papermill_io import split

if TYPE_CHECKING:
    from libsafe_nb.settings import Settings

NOTEBOOK = ".ipynb"


def new(
    name: str,
    *,
    template_name: str = template.BLANK,
    title: str | None = None,
    settings: Settings | None = None,
) -> str:
    """
    Write a new function, and return where it is.

    Parameters
    ----------
    name
        A local path, or `libsafe://CONTAINER/path`. With `.py` at its end it is written in percent format; where it has
        neither that nor `.ipynb`, `.ipynb` is added. The function's key is made of its last part.
    title
        By default its last part in words: `count_pages` is "Count pages".

    Raises
    ------
    UsageError
        There is no such template, there is something at that place, or it cannot be written there.
    NotebookError
        A `.py` file needs jupytext (the extra `percent`).
    """
    place = name if PurePosixPath(name).suffix in (NOTEBOOK, percent.SUFFIX) else name + NOTEBOOK
    stem = PurePosixPath(place).stem
    node = template.notebook(template_name, title=title or _in_words(stem), key=slug(stem))
    data = _bytes(node, place, template_name)
    if place.startswith("libsafe://"):
        _put(place, data, settings)
    else:
        _create(Path(place), data)
    return place


def _in_words(stem: str) -> str:
    words = re.sub(r"[\s_-]+", " ", stem).strip()
    return words[:1].upper() + words[1:]


def _bytes(node: Any, place: str, template_name: str) -> bytes:
    if not percent.is_script(place):
        # Imported here: it takes a tenth of a second, and `--help` needs none of it.
        import nbformat

        return (str(nbformat.writes(node)) + "\n").encode()
    if node.metadata["kernelspec"]["language"] != "python":
        raise UsageError(
            f"{place}: the template {template_name!r} is not Python; name a file that ends in {NOTEBOOK}"
        )
    return percent.write(node, name=place).encode()


def _put(address: str, data: bytes, settings: Settings | None) -> None:
    container, path = split(address)
    kind = TYPES[NOTEBOOK] if path.endswith(NOTEBOOK) else None
    connection = connect(settings=settings)
    try:
        connection.storage.put(container, path, data, if_none_match=True, content_type=kind)
    except PreconditionFailed as exc:
        raise UsageError(f"{address}: there is a file already; choose another name") from exc
    finally:
        connection.close()


def _create(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as exc:
        raise UsageError(f"{path}: there is a file already; choose another name") from exc
    except OSError as exc:
        raise UsageError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
