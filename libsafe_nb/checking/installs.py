"""Packages that a cell installs: each run may get other versions, and a platform without internet none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from libsafe_nb.checking.examined import Examined, Found, lines_of

_INSTALL = re.compile(
    r"""(?x)
    (?:^|[\s;&|(/!%]) (?:
        pip[\d.]* | uv\ pip | uv | conda | mamba | micromamba | apt | apt-get | easy_install
    )
    (?:\s+-{1,2}\S+)* \s+ (?:install|add)\b
    | \b(?:install\.packages|BiocManager::install|Pkg\.add)\s*\("""
)
# fmt: off
_CALLS = frozenset((
    "run", "call", "check_call", "check_output", "Popen", "system", "popen", "getoutput", "getstatusoutput",
    "create_subprocess_exec", "create_subprocess_shell", "main",
))
# fmt: on
_MAGICS = frozenset(("pip", "conda", "mamba", "micromamba", "uv"))
_MESSAGE = (
    "a package is installed by the notebook: name it in metadata.libsafe.requirements and install it where the"
    " kernel is"
)


def installs(examined: Examined) -> Iterator[Found]:
    lines: set[tuple[int, int]] = set()
    if examined.is_python:
        program = examined.program
        for command in program.commands:
            text = f"{command.name} {command.text}" if command.name in _MAGICS else command.text
            lines |= {program.place(command.line + line) for line in _lines(text)}
        for node in program.nodes:
            if isinstance(node, ast.Call) and _installs(node):
                lines.add(program.place(node.lineno))
    else:
        for number, cell in examined.code_cells:
            lines |= {(number, line + 1) for line in _lines(lines_of(cell))}
    for number, line in sorted(lines):
        yield number, line, _MESSAGE


def _lines(text: str) -> Iterator[int]:
    for number, line in enumerate(text.split("\n")):
        if not line.lstrip().startswith("#") and _INSTALL.search(line):
            yield number


def _installs(call: ast.Call) -> bool:
    func = call.func
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    if name not in _CALLS:
        return False
    words = " ".join(_words(call.args))
    if name == "main":
        # `pip.main(["install", …])`
        return "pip" in ast.unparse(func).split(".") and words.startswith("install")
    return _INSTALL.search(words) is not None


def _words(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, (ast.List, ast.Tuple)):
            yield from _words(node.elts)
        elif isinstance(node, ast.JoinedStr):
            yield " ".join(str(each.value) for each in node.values if isinstance(each, ast.Constant))
