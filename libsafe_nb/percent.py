"""
Notebooks kept as Python text: jupytext's percent format, whose cells begin with `# %%`.

A plain script is none: it has neither such a line nor jupytext's header, and is for `libsafe-nb exec`, or is a handler
(`handlers.py`).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from libsafe_nb.errors import NotebookError

SUFFIX = ".py"

_CELL = re.compile(rb"^#\s*%%", re.MULTILINE)
_HEADER = re.compile(rb"\A(\xef\xbb\xbf)?(#!.*\r?\n)?# ---\r?\n(#.*\r?\n)*?#\s+jupyter:")
_SPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


def is_script(name: str) -> bool:
    """Whether a file of this name holds Python text, and so no notebook as Jupyter writes it."""
    return PurePosixPath(name).suffix == SUFFIX


def is_notebook(source: bytes) -> bool:
    """Whether Python text has cells, or a header that says that it is a notebook."""
    return bool(_CELL.search(source) or _HEADER.search(source))


def read(source: bytes, *, name: str) -> Any:
    """
    The notebook of format 4 in such a text. Its cells have no ids, as the text has none.

    Without a kernel in its header it is one for `python3`.

    Raises
    ------
    NotebookError
        A plain script, or jupytext (the extra `percent`) is not installed.
    """
    if not is_notebook(source):
        raise NotebookError(
            f"{name}: expected a notebook, got a plain Python script without '# %%' cells or def handler(context, event); "
            f"run it with: libsafe-nb exec {name}",
            notebook=name,
        )
    text = source.decode("utf-8-sig").replace("\r\n", "\n")
    # Where a header says which of jupytext's forms it is in, that one counts.
    form = (
        {"extension": SUFFIX} if _HEADER.search(source) else {"extension": SUFFIX, "format_name": "percent"}
    )
    node = _jupytext(name).reads(text, fmt=form)
    node.metadata.pop("jupytext", None)
    node.metadata.setdefault("kernelspec", dict(_SPEC))
    for cell in node.cells:
        cell.pop("id", None)
        cell.metadata.pop("lines_to_next_cell", None)
    return node


def first_lines(source: bytes, node: Any) -> list[int]:
    """
    For each cell that was read from such a text, the line of the text in which its source begins, from 1.

    jupytext tells none. A cell's lines stand in the text as they are, or behind a `#`: markdown, and magics.
    """
    lines = [_bare(line) for line in source.decode("utf-8-sig").splitlines()]
    found, at = [], 0
    for cell in node.cells:
        wanted = [_bare(line) for line in cell.source.splitlines()]
        starts = range(at, len(lines) - len(wanted) + 1) if any(wanted) else ()
        first = next((start for start in starts if lines[start : start + len(wanted)] == wanted), None)
        found.append((at if first is None else first) + 1)
        at = at if first is None else first + len(wanted)
    return found


def _bare(line: str) -> str:
    return line.strip().removeprefix("#").strip()


def write(node: Any, *, name: str) -> str:
    """
    A notebook as such a text, with its kernel and its description (`metadata.libsafe`) in the header.

    Raises
    ------
    NotebookError
        jupytext (the extra `percent`) is not installed.
    """
    jupytext = _jupytext(name)
    kept = {each: node.metadata[each] for each in ("kernelspec", "libsafe") if each in node.metadata}
    kept["jupytext"] = {
        "notebook_metadata_filter": "kernelspec,libsafe,-jupytext.notebook_metadata_filter",
        "cell_metadata_filter": "tags",
    }
    bare = {**node, "metadata": kept}
    return str(jupytext.writes(type(node)(bare), fmt={"extension": SUFFIX, "format_name": "percent"}))


def _jupytext(name: str) -> Any:
    try:
        # Imported here: it takes most of a second, and most notebooks are no text.
        import jupytext
    except ImportError as exc:
        raise NotebookError(
            f"{name}: a notebook kept as Python text needs jupytext, which is not installed; "
            "install it with: pip install 'libsafe-nb[percent]'",
            notebook=name,
        ) from exc
    return jupytext
