"""
Makes docs/tutorial.ipynb anew: `python .ci/tutorial.py` follows it as a newcomer would, and writes down what came out.

In an empty folder, with an empty home and a virtual environment of its own, whose installation is timed too. What cells
print is kept in the notebook, with the places of this machine taken out; the table of times is its last cell's.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.ipynb"
EXTRAS = "local,lab,percent"
FOLLOW = """
import sys, nbformat
from nbclient import NotebookClient
node = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(node, timeout=600, kernel_name="python3", coalesce_streams=True).execute()
nbformat.write(node, sys.argv[1])
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tutorial-") as name:
        folder = Path(name).resolve()
        began = time.monotonic()
        install(folder)
        installed = time.monotonic() - began
        node = follow(folder)
    seconds = {"Install": installed, **steps(node)}
    cell = node.cells[-1]
    head, _, rest = cell.source.partition("\n\n")
    cell.source = f"{head}\n\n{table(seconds)}\n\n{rest.partition(chr(10) * 2)[2]}"
    for each in node.cells:
        each.metadata.pop("execution", None)
    nbformat.write(node, PAGE)


def install(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
    subprocess.run([folder / ".venv/bin/pip", "install", "--quiet", f"{ROOT}[{EXTRAS}]"], check=True)


def follow(folder: Path) -> Any:
    """The notebook with what its cells printed there."""
    (folder / "home").mkdir()
    (folder / "here").mkdir()
    copy = folder / "here" / "tutorial.ipynb"
    copy.write_bytes(PAGE.read_bytes())
    environment = {
        "HOME": str(folder / "home"),
        "PATH": f"{folder / '.venv/bin'}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
    try:
        command = [folder / ".venv/bin/python", "-c", FOLLOW, copy]
        subprocess.run(command, check=True, cwd=copy.parent, env=environment)
    finally:
        stop = [folder / ".venv/bin/libsafe-nb", "local", "stop"]
        subprocess.run(stop, check=False, env=environment, stdout=subprocess.DEVNULL)
    text = copy.read_text()
    for place, shown in ((folder / "home", "~"), (folder / "here", "."), (folder, "..")):
        text = text.replace(str(place), shown)
    return nbformat.reads(text, as_version=4)


def steps(node: Any) -> dict[str, float]:
    """Seconds of the cells under each heading."""
    found: dict[str, float] = {}
    step = ""
    for cell in node.cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("## ")]
            step = headings[-1].lstrip("# 0123456789.") if headings else step
        else:
            marks = cell.metadata["execution"]
            busy, idle = (
                datetime.fromisoformat(marks[name].replace("Z", "+00:00"))
                for name in ("iopub.status.busy", "iopub.status.idle")
            )
            found[step] = found.get(step, 0.0) + (idle - busy).total_seconds()
    return {("Is all there?" if name == "Install" else name): each for name, each in found.items()}


def table(seconds: dict[str, float]) -> str:
    rows = [f"| {name} | {each:.1f} s |" for name, each in seconds.items()]
    total = sum(seconds.values())
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    return "\n".join(
        [
            f"| step | on this machine ({machine}) |",
            "|---|---|",
            *rows,
            f"| **all of it** | **{total // 60:.0f} min {total % 60:.0f} s**; the rest of the ten minutes is for reading and typing |",
        ]
    )


if __name__ == "__main__":
    main()
