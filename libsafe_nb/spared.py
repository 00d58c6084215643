"""
Modules that others import and that no run needs: a process that is only there for runs is spared them.

    rfc3987_syntax   a grammar of IRIs for jsonschema, which nbformat loads: one to two seconds, and 25 MB
    isoduration      durations for the same: 50 ms
    pyarrow          HDFS for papermill: 200 ms with numpy

Who imports them does without where they are not installed, and is told that they are not.
"""

from __future__ import annotations

import sys

JSONSCHEMA = ("rfc3987_syntax", "isoduration")
PAPERMILL = ("pyarrow",)


def spare(*names: str) -> None:
    """Have an import of these fail from now on, unless they are here already."""
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def give_back(*names: str) -> None:
    """Undo `spare`."""
    for name in names:
        if sys.modules.get(name, sys) is None:
            del sys.modules[name]
