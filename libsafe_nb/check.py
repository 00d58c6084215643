"""
What is wrong with a notebook before it runs, is uploaded or published: a list of rules, each with a code.

A rule takes an `Examined` notebook and yields what it finds. A new one is a function, a line in `RULES` and a row in
`docs/check.md`; a test holds the three together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libsafe_nb import description, notebook, settings
from libsafe_nb.errors import NotebookError
from libsafe_nb.redact import SecretSet, find_pasted_keys
from libsafe_nb.redact.wrappings import Unwrapping
from libsafe_nb.secrets import SAMPLE_KEY, Secret, weakness


@dataclass(frozen=True)
class Examined:
    """A notebook that is looked at, as a parsed JSON of format 4, and the keys that its author is known to have."""

    name: str
    book: dict[str, Any]
    secrets: SecretSet = field(default_factory=SecretSet)

    @property
    def cells(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each cell with its place, counted from 1 as a reader does."""
        return enumerate(self.book["cells"], 1)


@dataclass(frozen=True)
class Finding:
    """
    One thing that a rule found.

    Attributes
    ----------
    cell
        Its place in the notebook, from 1; None for what belongs to no cell.
    line
        In the cell's source, or in the output or attachment that the message names; from 1.
    """

    file: str
    cell: int | None
    line: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.cell or '-'}:{self.line}: {self.code} {self.message}"

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "cell": self.cell,
            "line": self.line,
            "code": self.code,
            "message": self.message,
        }


Found = tuple[int | None, int, str]
"""Cell, line and message."""


@dataclass(frozen=True)
class Rule:
    code: str
    find: Callable[[Examined], Iterator[Found]]


def check(path: str | Path, *, secrets: SecretSet | None = None) -> list[Finding]:
    """
    All that the rules find in a notebook file, in the order of its cells.

    Parameters
    ----------
    secrets
        Keys that are known, such as those of the author's settings: they are found in every encoding. Other keys are
        found by how they look.

    Raises
    ------
    NotebookError
        The file cannot be read, or is no notebook.
    """
    name = str(path)
    try:
        source = Path(path).read_bytes()
    except OSError as exc:
        raise NotebookError(f"{name}: cannot be read ({exc.strerror or exc})", notebook=name) from exc
    # Parsed anew: nbformat's own dictionaries are of a class that answers to any attribute.
    book = json.loads(json.dumps(notebook.read(source, name=name)))
    return examine(Examined(name, book, secrets or SecretSet()))


def examine(examined: Examined) -> list[Finding]:
    """As `check`, of a notebook that was read already."""
    found = [
        Finding(examined.name, cell, line, rule.code, message)
        for rule in RULES
        for cell, line, message in rule.find(examined)
    ]
    return sorted(found, key=lambda each: (each.cell or 0, each.code, each.line))


def configured_secrets() -> SecretSet:
    """The keys in the author's settings; those that are too weak to be told from ordinary text are left out."""
    # Keys count also where no address is set; those of a local platform that runs are the author's as well.
    values: dict[str, str] = {}
    for found in filter(None, (settings.known(), settings.load())):
        named = {
            "key_user": found.key_user,
            "key_root": found.key_root,
            "s3_secret_key": found.s3.secret_key if found.s3 else None,
        }
        values |= {value: name for name, value in named.items() if value}
    return SecretSet(
        Secret(name, value) for value, name in values.items() if value != SAMPLE_KEY and not weakness(value)
    )


# The rules ------------------------------------------------------------------------------------------------------


def key_in_source(examined: Examined) -> Iterator[Found]:
    for number, cell in examined.cells:
        for line, message in _keys(examined, str(cell.get("source", ""))):
            yield number, line, message


def key_in_outputs(examined: Examined) -> Iterator[Found]:
    for number, cell in examined.cells:
        for place, output in enumerate(cell.get("outputs", ()), 1):
            for line, message in dict.fromkeys(_in_texts(examined, _texts(output))):
                yield number, line, f"output {place}: {message}"


def key_in_metadata(examined: Examined) -> Iterator[Found]:
    for line, message in dict.fromkeys(_in_texts(examined, _texts(examined.book.get("metadata", {})))):
        yield None, line, f"metadata of the notebook: {message}"
    for number, cell in examined.cells:
        for part in ("metadata", "attachments"):
            for line, message in dict.fromkeys(_in_texts(examined, _texts(cell.get(part, {})))):
                yield number, line, f"{part}: {message}"


def description_of_function(examined: Examined) -> Iterator[Found]:
    for message in description.problems(examined.book.get("metadata", {}).get("libsafe")):
        yield None, 1, message


RULES = (
    Rule("LSN001", key_in_source),
    Rule("LSN002", key_in_outputs),
    Rule("LSN003", key_in_metadata),
    Rule("LSN004", description_of_function),
)


# Keys -----------------------------------------------------------------------------------------------------------

_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_REMEDY = "take it from the payload or the environment instead"


def _in_texts(examined: Examined, texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    for text in texts:
        yield from _keys(examined, text)


def _keys(examined: Examined, text: str) -> Iterator[tuple[int, str]]:
    """Line and message for each key in a text; of a known key by its name, also where its looks give it away."""
    known: dict[int, str] = {}
    for span in examined.secrets.find(text):
        if span.form != "derived":
            known[_line(text, span.start)] = f"{span.secret} of the settings stands in the text ({span.form})"
    for wrapped in Unwrapping(examined.secrets).text(text) if examined.secrets.secrets else ():
        for name, form in wrapped.findings.secrets:
            known.setdefault(
                _line(text, wrapped.start), f"{name} of the settings stands in the text ({form})"
            )
    for line, message in sorted(known.items()):
        yield line, f"{message}: {_REMEDY}"
    # A traceback shows the source in colours, between the letters of it.
    for key in find_pasted_keys(_TERMINAL.sub("", text)):
        if key.line not in known:
            yield key.line, key.message


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _texts(value: Any, name: str = "") -> Iterator[str]:
    """
    The texts in a part of a notebook: lists of lines as one; a named value with its name, as it gives a key away.

    What is no text, such as a picture, is a text as well: a known key may lie in it in base64.
    """
    if isinstance(value, str):
        yield value
        if _is_word(name) and "\n" not in value:
            yield f'{name} = "{value}"'
    elif isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        yield "".join(value) if any(each.endswith("\n") for each in value) else "\n".join(value)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, name)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from _texts(each, str(key))


def _is_word(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][\w.\-]{0,80}", name) is not None
