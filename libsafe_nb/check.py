"""
What is wrong with a notebook before it runs, is uploaded or published: a list of rules, each with a code.

A rule takes an `Examined` notebook and yields what it finds; they are in `checking/`, a module for each thing that is
looked at. A new one is a function, a line in `RULES` and a row in `docs/check.md`; a test holds the three together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from libsafe_nb import description, handlers, notebook, percent, settings
from libsafe_nb.checking import imports, installs, job, keys, order, parameters, places, reading
from libsafe_nb.checking.examined import Examined, Finder, Found, tags
from libsafe_nb.checking.silence import Silence
from libsafe_nb.errors import NotebookError
from libsafe_nb.redact import SecretSet
from libsafe_nb.secrets import SAMPLE_KEY, Secret, weakness

__all__ = ["KEYS", "RULES", "Examined", "Finding", "Rule", "check", "configured_secrets", "examine"]


@dataclass(frozen=True)
class Finding:
    """
    One thing that a rule found.

    Attributes
    ----------
    cell
        Its place in the notebook, from 1; None for what belongs to no cell.
    line
        In the cell's source, or in the output or attachment that the message names; from 1. Of a notebook kept as
        Python text: in that file.
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


@dataclass(frozen=True)
class Rule:
    code: str
    find: Finder


def check(
    path: str | Path, *, secrets: SecretSet | None = None, codes: Collection[str] | None = None
) -> list[Finding]:
    """
    All that the rules find in a notebook file, in the order of its cells.

    Parameters
    ----------
    secrets
        Keys that are known, such as those of the author's settings: they are found in every encoding. Other keys are
        found by how they look.
    codes
        Of the rules to ask; by default all of them.

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
    return check_source(source, name=name, secrets=secrets, codes=codes)


def check_source(
    source: bytes, *, name: str, secrets: SecretSet | None = None, codes: Collection[str] | None = None
) -> list[Finding]:
    """As `check`, of a notebook file's bytes; `name` is its path or address."""
    node = notebook.read(source, name=name)
    try:
        # Parsed anew: nbformat's own dictionaries are of a class that answers to any attribute.
        book = json.loads(json.dumps(node))
        found = examine(Examined(name, book, secrets or SecretSet()), codes=codes)
    except RecursionError as exc:
        raise NotebookError(
            f"{name}: expected a notebook, got JSON that nests too deep", notebook=name
        ) from exc
    if not percent.is_script(name):
        return found
    firsts = percent.first_lines(source, node)
    # What is told of a cell's metadata stands in the line above it.
    return [
        replace(each, line=firsts[each.cell - 1] + (each.line if each.code != "LSN003" else 0) - 1)
        if each.cell
        else each
        for each in found
    ]


def examine(examined: Examined, *, codes: Collection[str] | None = None) -> list[Finding]:
    """As `check`, of a notebook that was read already."""
    silence = Silence(examined)
    found = [
        Finding(examined.name, cell, line, rule.code, message)
        for rule in RULES
        if codes is None or rule.code in codes
        if rule.code not in OF_NOTEBOOKS or not handlers.is_made(examined.metadata)
        for cell, line, message in rule.find(examined)
        if rule.code in KEYS or not silence.covers(cell, line, rule.code)
    ]
    found = [each if each.code in KEYS else _shown(each, examined.secrets) for each in found]
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


def _shown(finding: Finding, secrets: SecretSet) -> Finding:
    """A finding that names what the author wrote, without what may be a key: a name without quotes is one easily."""
    message = re.sub(
        r"\w+", lambda word: "…" if _may_be_key(word[0]) else word[0], secrets.redact(finding.message)[0]
    )
    return replace(finding, message=message)


def _may_be_key(word: str) -> bool:
    """Long, with digits amid its letters: no name that anybody reads."""
    return any(len(part) >= 12 and re.search(r"[0-9][^\W0-9]", part) is not None for part in word.split("_"))


# The rules ------------------------------------------------------------------------------------------------------


def description_of_function(examined: Examined) -> Iterator[Found]:
    for message in description.problems(examined.metadata.get("libsafe")):
        yield None, 1, message


def readable(examined: Examined) -> Iterator[Found]:
    expected = {number for number, cell in examined.cells if "raises-exception" in tags(cell)}
    for cell in examined.program.cells:
        if cell.error is not None and cell.number not in expected:
            line, message = cell.error
            yield cell.number, line, f"this is not Python ({message}): a run ends here"


KEYS = frozenset(("LSN001", "LSN002", "LSN003"))
"""Findings of keys: no comment switches them off, and a notebook with one is not uploaded."""

OF_NOTEBOOKS = ("LSN004", "LSN005", "LSN020")
"""Codes of what a plain handler cannot have: a description of itself, and a parameters cell."""

RULES = (
    Rule("LSN001", keys.key_in_source),
    Rule("LSN002", keys.key_in_outputs),
    Rule("LSN003", keys.key_in_metadata),
    Rule("LSN004", description_of_function),
    Rule("LSN005", parameters.missing),
    Rule("LSN006", parameters.several),
    Rule("LSN007", parameters.payload),
    Rule("LSN008", parameters.ill_typed),
    Rule("LSN009", readable),
    Rule("LSN010", places.absolute_paths),
    Rule("LSN011", order.counts),
    Rule("LSN012", order.undefined),
    Rule("LSN013", imports.undeclared),
    Rule("LSN014", job.begins),
    Rule("LSN015", job.ends),
    Rule("LSN016", installs.installs),
    Rule("LSN017", reading.unused),
    Rule("LSN018", reading.lost),
    Rule("LSN019", reading.undeclared),
    Rule("LSN020", parameters.described),
)
