"""
A notebook's cells as one Python program. Pure.

IPython's own syntax (`%magic`, `!command`, `name?`) becomes the Python that IPython makes of it, and every line stays
where it was. A cell of another language (`%%bash`) stays text.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from libsafe_nb import syntax

DEPTH = 200
"""Code nested deeper, such as a sum of a thousand terms, is not looked into: walking it takes a call a level."""

MOST_TEXT = 300_000
"""Characters of all cells together. What is beyond, such as data pasted as code, is not looked into: Python takes 15 s for an
f-string of that size."""

MOST_LINES = 3000
"""Of a cell with IPython's own syntax: its transformers copy all lines for each they change."""

# fmt: off
AUTOMAGIC = frozenset((
    "cat", "cd", "clear", "conda", "cp", "dirs", "env", "history", "less", "lf", "ll", "load_ext", "ls", "lsmagic", "mamba",
    "man", "matplotlib", "micromamba", "mkdir", "more", "mv", "pip", "pinfo", "popd", "precision", "prun", "psource", "pushd",
    "pwd", "pycat", "reload_ext", "rm", "rmdir", "run", "time", "timeit", "uv", "who", "whos",
))
# fmt: on
"""IPython takes them without their `%` as well, where a cell is one line."""

_PYTHON_BODIES = frozenset(("time", "timeit", "capture", "prun", "memit", "mprun", "lprun"))
"""Magics of a cell whose body is Python and runs in this kernel."""

_OTHER_BODIES = frozenset(
    ("bash", "sh", "script", "html", "HTML", "javascript", "js", "latex", "markdown", "svg", "SVG", "writefile", "file", "R", "perl", "ruby", "sql")
)  # fmt: skip

_AUTOMAGIC = re.compile(rf"\A(\s*)(?=(?:{'|'.join(sorted(AUTOMAGIC))})\s+[^\s=(,\[:].*\s*\Z)")
_PASSES = 20
_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Command:
    """A magic or a command of the shell: its first line in the program, its name (empty: the shell), and its text."""

    line: int
    name: str
    text: str
    whole_cell: bool = False


@dataclass(frozen=True)
class Cell:
    """One code cell; `body` is empty where it is not Python, or cannot be read (`unread`)."""

    number: int
    first: int
    """Its first line in the program."""
    source: str
    body: list[ast.stmt] = field(default_factory=list)
    commands: tuple[Command, ...] = ()
    error: tuple[int, str] | None = None
    """Line within the cell, and what Python says."""
    unread: bool = False

    @property
    def last(self) -> int:
        return self.first + self.source.count("\n")


@dataclass(frozen=True)
class Program:
    """All cells one after the other, lines counted through."""

    cells: tuple[Cell, ...] = ()

    @cached_property
    def body(self) -> list[ast.stmt]:
        return [statement for cell in self.cells for statement in cell.body]

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(node for statement in self.body for node in ast.walk(statement))

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        return {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    @cached_property
    def bound(self) -> dict[str, int]:
        """Names that are bound anywhere, also within functions, with the first line."""
        found: dict[str, int] = {}
        for node in self.nodes:
            line = getattr(node, "lineno", 0)
            for name in binds(node):
                found[name] = min(line, found.get(name, line))
        return found

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of magics, commands and cells that are not looked into: names may be read there."""
        texts = [each.text for each in self.commands] + [cell.source for cell in self.cells if cell.unread]
        return frozenset(word for text in texts for word in _WORD.findall(text))

    @cached_property
    def maybe_bound(self) -> frozenset[str]:
        """Those of them that may be names that are bound there (`%%capture out`, `%%R -o out`)."""
        # Of a cell known to be in another language only the line of the magic itself.
        texts = [
            each.text.partition("\n")[0] if each.whole_cell and each.name in _OTHER_BODIES else each.text
            for each in self.commands
        ]
        texts += [cell.source for cell in self.cells if cell.unread]
        return frozenset(word for text in texts for word in _WORD.findall(text))

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """What a node stands in, from the inside."""
        above = self.parents.get(node)
        while above is not None:
            yield above
            above = self.parents.get(above)

    def is_tried(self, node: ast.AST, names: Collection[str]) -> bool:
        """Whether a node stands in a `try` that catches an exception of one of these names."""
        below = node
        for above in self.above(node):
            if isinstance(above, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                return False
            if isinstance(above, (ast.Try, ast.TryStar)):
                guards = above.handlers if below in above.body else []
                if any(catches(each, names) for each in guards):
                    return True
            below = above
        return False

    @property
    def commands(self) -> Iterator[Command]:
        return (command for cell in self.cells for command in cell.commands)

    def cell(self, number: int) -> Cell:
        return next(cell for cell in self.cells if cell.number == number)

    def place(self, line: int) -> tuple[int, int]:
        """Number of the cell, and line in it, of a line of the program."""
        low, high = 0, len(self.cells) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.cells[middle].first <= line:
                low = middle
            else:
                high = middle - 1
        return self.cells[low].number, line - self.cells[low].first + 1

    @cached_property
    def is_dynamic(self) -> bool:
        """Whether names can be bound or read in ways that a reader of the text does not see."""
        calls = {"globals", "locals", "vars", "exec", "eval"}
        return any(
            (isinstance(node, ast.Name) and node.id in calls)
            or (isinstance(node, ast.ImportFrom) and node.names[0].name == "*")
            for node in self.nodes
        ) or any(
            command.name in {"run", "pylab", "load", "loadpy", "store", "cython", "macro", "rerun", "recall"}
            for command in self.commands
        )


def read(sources: Iterable[tuple[int, str]]) -> Program:
    """The cells, given as number and source."""
    cells: list[Cell] = []
    first, text = 1, 0
    with warnings.catch_warnings():
        # Python's own, of escapes in strings and the like.
        warnings.simplefilter("ignore")
        for number, source in sources:
            text += len(source)
            is_read = text <= MOST_TEXT
            cells.append(
                _cell(number, first, source) if is_read else Cell(number, first, source, unread=True)
            )
            first = cells[-1].last + 1
    return Program(tuple(cells))


def _cell(number: int, first: int, source: str) -> Cell:
    magic = re.match(r"\s*%%(\w+)(?![\w?])(.*)", source)
    if magic is None:
        return _python_cell(number, first, source, source, ())
    line = first + source.count("\n", 0, magic.start(1))
    rest = source[magic.start(1) :].partition("\n")[2]
    if magic[1] not in _PYTHON_BODIES:
        text = f"{magic[2]}\n{rest}"
        return Cell(number, first, source, commands=(Command(line, magic[1], text, whole_cell=True),))
    blank = source.count("\n", 0, magic.start(1)) + 1
    command = Command(line, magic[1], magic[2])
    return _python_cell(number, first, source, "\n" * blank + rest, (command,))


def _python_cell(number: int, first: int, source: str, code: str, commands: tuple[Command, ...]) -> Cell:
    try:
        tree = _parsed(code)
        # Python finds some errors only here: `return` outside a function, two arguments of one name.
        compile(tree, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as exc:
        line = min(max(exc.lineno or 1, 1), source.count("\n") + 1)
        return Cell(number, first, source, commands=commands, error=(line, str(exc.msg)), unread=True)
    except (ValueError, RecursionError, MemoryError) as exc:
        # A zero byte, half a character: no Python. What is too deep for the parser may still be Python.
        error = (1, "characters that no source may hold") if isinstance(exc, ValueError) else None
        return Cell(number, first, source, commands=commands, error=error, unread=True)
    if _depth(tree) > DEPTH:
        return Cell(number, first, source, commands=commands, unread=True)
    ast.increment_lineno(tree, first - 1)
    found = (*commands, *(each for node in ast.walk(tree) if (each := _command(node))))
    return Cell(number, first, source, body=tree.body, commands=found)


def _parsed(code: str) -> ast.Module:
    try:
        return syntax.parse(code)
    except SyntaxError:
        if code.count("\n") > MOST_LINES:
            raise MemoryError from None
        changed = _as_python(code)
        if changed == code:
            raise
        return syntax.parse(changed)


def _as_python(code: str) -> str:
    """IPython's transformers, one pass over all of the cell in place of one for each magic, and no line moved."""
    # Only where Python could not read it: importing IPython takes 90 ms.
    from IPython.core import inputtransformer2

    ipython: Any = inputtransformer2  # has no types

    begun = len(code) - len(code.lstrip("\n"))
    lines = re.findall(r"[^\n]*\n|[^\n]+", _AUTOMAGIC.sub(r"\1%", code[begun:], count=1))
    for clean in (ipython.leading_indent, ipython.classic_prompt, ipython.ipython_prompt):
        lines = clean(lines)
    transformers = ipython.TransformerManager().token_transformers
    for _ in range(_PASSES):
        before = list(lines)
        for tokens in reversed(ipython.make_tokens_by_line(lines)):
            # One that stands behind a command that is no Python, such as `!echo it's`, is found in the next pass.
            lines = _transformed(lines, [t for each in transformers if (t := each.find([tokens]))])
        if lines == before:
            break
        try:
            syntax.parse("".join(lines))
            break
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return "\n" * begun + "".join(lines)


def _transformed(lines: list[str], found: list[Any]) -> list[str]:
    for each in sorted(found, key=lambda each: each.sortby()):
        try:
            changed = each.transform(lines)
        except (SyntaxError, IndexError, AssertionError):
            continue
        after = each.start_line + 1
        return [*changed[:after], *["\n"] * (len(lines) - len(changed)), *changed[after:]]
    return lines


def _command(node: ast.AST) -> Command | None:
    """A magic as IPython writes it in Python, which authors do too."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    texts = [
        each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
    if not texts:
        return None
    of = node.func.value
    if not (isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "get_ipython"):
        return None
    if node.func.attr in ("system", "getoutput"):
        return Command(node.lineno, "", texts[0])
    if node.func.attr in ("run_line_magic", "run_cell_magic", "magic"):
        name, _, rest = texts[0].partition(" ")
        return Command(node.lineno, name, " ".join([rest, *texts[1:]]).strip())
    return None


def called_name(node: ast.Call) -> str:
    """The last name of what is called."""
    func = node.func
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def catches(handler: ast.ExceptHandler, names: Collection[str]) -> bool:
    return handler.type is None or not names_in(handler.type).isdisjoint(names)


def names_in(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def binds(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    else:
        # Functions, classes, handlers, patterns; of a mapping, what is left over.
        names = (getattr(node, "name", None), getattr(node, "rest", None))
        yield from (name for name in names if isinstance(name, str))


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth
