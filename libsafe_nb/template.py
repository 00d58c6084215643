"""The notebooks in `templates/`, from which a new function begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from libsafe_nb.errors import UsageError
from libsafe_nb.evidence import slug

BLANK = "blank"
"""The one that is taken when none is asked for, and the first in every list."""

BESIDE = {"workflow": ("per_file", "report")}
"""Templates whose functions call others by path: those that are begun beside them, each as `{template}.ipynb`."""

_KEY = '"function": {"id": "0", "key": ""}'
_HEADING = re.compile(r"\A# .*")


def names() -> list[str]:
    """What can be given as `name` to the functions below: `blank` first, the others by name."""
    return sorted((path.stem for path in _folder().glob("*.ipynb")), key=lambda name: (name != BLANK, name))


def describe(name: str) -> str:
    """
    What a template's function does, in a sentence.

    Raises
    ------
    UsageError
        There is no such template; the message names those that there are.
    """
    return str(_read(name).metadata["libsafe"]["description"])


def notebook(name: str = BLANK, *, title: str | None = None, key: str | None = None) -> Any:
    """
    A new notebook (nbformat 4) from a template, never run.

    Parameters
    ----------
    title
        Its first heading and the title in its description; by default the template's own.
    key
        The function's key in the sample payload; by default made from the title.

    Raises
    ------
    UsageError
        There is no such template, or the title is empty.
    """
    node = _read(name)
    if title is not None:
        line = " ".join(title.split())
        if not line:
            raise UsageError("the title of a new function is empty")
        # The text goes in as it stands: a function, as in a pattern's own syntax `\1` would mean something.
        node.cells[0].source = _HEADING.sub(lambda _: f"# {line}", node.cells[0].source)
        node.metadata["libsafe"]["title"] = line
    chosen = slug(node.metadata["libsafe"]["title"]).lower() if key is None else slug(key)
    for cell in node.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace(_KEY, _KEY.replace('""', f'"{chosen}"'))
    return node


def _read(name: str) -> Any:
    # Imported here: it takes a tenth of a second, and `--help` needs none of it.
    import nbformat

    known = names()
    if name not in known:
        raise UsageError(f"there is no template {name!r}; there are: {', '.join(known)}")
    return nbformat.read(_folder() / f"{name}.ipynb", as_version=4)


def _folder() -> Path:
    package = Path(__file__).parent
    # A wheel has them in the package; in a checkout they lie beside it.
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"
