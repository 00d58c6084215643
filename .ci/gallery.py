"""
Makes docs/gallery.md from the notebooks themselves: `python .ci/gallery.py`. The pictures on it: `python .ci/pictures.py`.

What a function says of itself stands in its notebook once: title, text and commands in the first cell, each parameter's
help as a comment behind it or above it.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGE = ROOT / "docs" / "gallery.md"
HEAD = """<!-- Made by `python .ci/gallery.py` from the notebooks: change those. -->
# Worked functions

Each is a job that archivists ask for, and an example to begin your own from. They lie in
[`notebooks/`](../notebooks), with [sample files](../notebooks/samples) on which the commands below can be tried as they stand. Each tells the
job, of every file, what is wrong with it, counts it in the scrap `failures`, and goes on with the others. What they read files
with is installed by `pip install 'libsafe-nb[local,functions]'`.

"""


def page() -> str:
    """The text of docs/gallery.md."""
    found = [(path.stem, *title_and_text(path)) for path in NOTEBOOKS]
    listed = "\n".join(f"- [{title}](#{anchor(title)})" for _, title, _ in found)
    shown = (section(path, title, text) for path, (_, title, text) in zip(NOTEBOOKS, found, strict=True))
    return f"{HEAD}{listed}\n\n" + "\n".join(shown)


def section(path: Path, title: str, text: str) -> str:
    described = json.loads(path.read_text())["metadata"]["libsafe"]
    name = path.stem
    rows = "".join(
        f"| `{parameter}` | {told} | `{type_}` | {default} |\n"
        for parameter, told, type_, default in parameters(path)
    )
    table = f"| parameter | | type | default |\n|---|---|---|---|\n{rows}\n" if rows else ""
    needs = ", ".join(f"`{each}`" for each in described.get("requirements", ()))
    events = ", ".join(f"`{each}`" for each in described["effects"]) or "none"
    return (
        f"## {title}\n\n{text}\n\n![What {name} shows at its end](img/functions/{name}.png)\n\n{table}"
        f"[`notebooks/{path.name}`](../notebooks/{path.name}) · needs {needs} · PREMIS events {events}\n"
    )


def title_and_text(path: Path) -> tuple[str, str]:
    title, _, text = cells(path, "markdown")[0].partition("\n")
    return title.removeprefix("# "), text.strip()


def commands(path: Path) -> list[str]:
    """The commands that run a function over its samples."""
    block = re.search(r"```sh\n(.*?)```", title_and_text(path)[1], re.S)
    return block[1].replace("\\\n", "").splitlines() if block else []


def parameters(path: Path) -> list[tuple[str, str, str, str]]:
    """Name, help, type and default of each, as they are written."""
    source = next(each for each in cells(path, "code") if "json_sample = {" in each)
    lines, found = source.split("\n"), []
    for statement in ast.parse(source).body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        last, above = lines[(statement.end_lineno or 0) - 1], lines[statement.lineno - 2].strip()
        behind = last[statement.end_col_offset :].strip()
        told = (behind or above).removeprefix("#").strip() if (behind or above).startswith("#") else ""
        found.append((statement.target.id, told, ast.unparse(statement.annotation), default(statement.value)))
    return found


def default(value: Any) -> str:
    shown = ast.unparse(value)
    return f"`{shown}`" if len(shown) < 60 else "for each its own: see the notebook"


def anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
