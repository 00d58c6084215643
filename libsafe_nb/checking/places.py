"""
Absolute paths: on another machine, and on the platform, there is no such file.

Outputs are not looked at: a run replaces them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from libsafe_nb.checking.cells import Program
from libsafe_nb.checking.examined import Examined, Found, lines_of

_ROOTS = "home|Users|root|mnt|Volumes|opt|usr|var|srv"
"""Folders of a machine. Another path that begins with a slash may as well be one in a container, or of a REST call."""

_OWN = re.compile(
    rf"(?:file://)?(?:/(?:{_ROOTS})/(?!bin/env\b)[^/\s]|~\w*/\w"
    # Two characters at least after a drive: `d:\s` is a pattern.
    r"|[A-Za-z]:\\\w[\w .()-]+(?:\\|\.|\Z)|[A-Z]:/\w|\\\\[\w.-]{2,}\\[\w.-])"
)
_IN_TEXT = re.compile(
    rf"(?<![\w.:/~$}})\\-])(?:/(?:{_ROOTS})/(?!bin/env\b)[\w.]|~/\w|[A-Z]:\\\w)",
)
_HERE = re.compile(r"/(?!tmp/|tmp$|dev/|proc/|/)\S")
"""Any absolute path, where a file of this machine is opened: only these few are on every machine."""

# fmt: off
_OPENING = frozenset((
    "open", "Path", "PosixPath", "chdir", "listdir", "scandir", "glob", "iglob", "copy", "copyfile", "copytree", "makedirs",
))
_OF = frozenset((
    "", "os", "shutil", "glob", "io", "pathlib", "codecs", "gzip", "bz2", "lzma", "zipfile", "tarfile", "Image", "wave",
))
# fmt: on
"""Modules whose functions of these names take a file of this machine; a storage has an `open` and a `copy` of its own."""

_TESTING = frozenset(("startswith", "endswith", "removeprefix", "removesuffix", "split", "replace"))
_MESSAGE = (
    "an absolute path, which other machines do not have: take the file from the run (request.Files), a parameter"
    " or a temporary folder"
)


def absolute_paths(examined: Examined) -> Iterator[Found]:
    found: dict[tuple[int, int], None] = {}
    if examined.is_python:
        program = examined.program
        platform = names_of_libnova(program)
        found |= dict.fromkeys(program.place(line) for line in _in_python(program, platform))
        for command in program.commands:
            found |= dict.fromkeys(program.place(command.line + line) for line in _in_text(command.text))
    else:
        for number, cell in examined.code_cells:
            found |= dict.fromkeys((number, line + 1) for line in _in_text(lines_of(cell)))
    for number, line in found:
        yield number, line, _MESSAGE


def names_of_libnova(program: Program) -> set[str]:
    """Names that an import takes from the vendor's library: what is given to those is a path in a container."""
    return {
        alias.asname or alias.name.partition(".")[0]
        for node in program.nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if ((node.module or "") if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
        == "libnova"
    }


def _in_python(program: Program, platform: set[str]) -> Iterator[int]:
    for node in program.nodes:
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            continue
        if not (_OWN.match(node.value) or _HERE.match(node.value)):
            continue
        parent = program.parents.get(node)
        if isinstance(parent, ast.JoinedStr):
            if parent.values[0] is not node:
                continue
            parent = program.parents.get(parent)
        if isinstance(parent, ast.BinOp) and parent.right is node:
            # `base + "/home"`
            continue
        if isinstance(parent, ast.Expr):
            # A text that nothing is done with: a docstring.
            continue
        call = _call_around(program, node)
        name, root = _called(call)
        if root in platform or name in _TESTING:
            continue
        if _OWN.match(node.value) or (_opens(name, root) and call is parent):
            yield node.lineno


def _call_around(program: Program, node: ast.AST) -> ast.Call | None:
    above = program.parents.get(node)
    while above is not None and not isinstance(above, (ast.Call, ast.stmt)):
        above = program.parents.get(above)
    return above if isinstance(above, ast.Call) else None


def _called(call: ast.Call | None) -> tuple[str, str]:
    """The last name of what is called, and the first."""
    if call is None:
        return "", ""
    at: ast.expr = call.func
    last = at.attr if isinstance(at, ast.Attribute) else at.id if isinstance(at, ast.Name) else ""
    while isinstance(at, (ast.Attribute, ast.Call)):
        at = at.value if isinstance(at, ast.Attribute) else at.func
    return last, at.id if isinstance(at, ast.Name) else ""


def _opens(name: str, root: str) -> bool:
    if name in _OPENING:
        return root in _OF or root == name
    return name.startswith("read_") and root in ("pd", "pandas", "pl", "polars")


def _in_text(text: str) -> Iterator[int]:
    """Lines, from 0, of a shell's or another language's text; comments are let pass."""
    for number, line in enumerate(text.split("\n")):
        if not line.lstrip().startswith("#") and _IN_TEXT.search(line):
            yield number
