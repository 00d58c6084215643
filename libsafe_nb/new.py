"""A new function from a template: on this disk or in a container, and never in the place of something else."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from libsafe_nb import percent, template
from libsafe_nb.connection import connect
from libsafe_nb.errors import PreconditionFailed, UsageError
from libsafe_nb.evidence import TYPES, slug
from libsafe_nb.objects import refuse_evidence
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
    template_name
        The functions that its function calls by path are begun beside it (`parts`); one that is there already is left as it is.
    title
        By default its last part in words: `count_pages` is "Count pages".

    Raises
    ------
    UsageError
        There is no such template, no name, something at that place, or it cannot be written there.
    NotebookError
        A `.py` file needs jupytext (the extra `percent`).
    """
    last = name.rpartition("/")[2]
    if not last.removesuffix(NOTEBOOK).removesuffix(percent.SUFFIX):
        raise UsageError(f"{name!r}: expected a name for the function, such as count_pages, found none")
    place = name if PurePosixPath(name).suffix in (NOTEBOOK, percent.SUFFIX) else name + NOTEBOOK
    beside = parts(place, template_name)
    if place in beside:
        raise UsageError(f"{place}: a function that it calls is begun under that name; choose another one")
    stem = PurePosixPath(place).stem
    node = template.notebook(template_name, title=title or _in_words(stem), key=slug(stem))
    data = _bytes(node, place, template_name)
    _begin(place, data, settings)
    for part, part_template in beside.items():
        with contextlib.suppress(_Taken):
            _begin(
                part,
                _bytes(template.notebook(part_template, key=part_template), part, part_template),
                settings,
            )
    return place


def parts(place: str, template_name: str) -> dict[str, str]:
    """Where the functions lie that a function at `place` from a template calls by path, and from which template each is."""
    folder = place[: len(place) - len(PurePosixPath(place).name)]
    return {f"{folder}{each}{NOTEBOOK}": each for each in template.BESIDE.get(template_name, ())}


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


class _Taken(UsageError):
    """There is a file already."""


def _begin(place: str, data: bytes, settings: Settings | None) -> None:
    if place.startswith("libsafe://"):
        _put(place, data, settings)
    else:
        _create(Path(place), data)


def _put(address: str, data: bytes, settings: Settings | None) -> None:
    container, path = split(address)
    kind = TYPES[NOTEBOOK] if path.endswith(NOTEBOOK) else None
    refuse_evidence(path)
    connection = connect(settings=settings)
    try:
        connection.storage.put(container, path, data, if_none_match=True, content_type=kind)
    except PreconditionFailed as exc:
        raise _Taken(f"{address}: there is a file already; choose another name") from exc
    finally:
        connection.close()


def _create(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as exc:
        raise _Taken(f"{path}: there is a file already; choose another name") from exc
    except OSError as exc:
        raise UsageError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
