"""`README.md`: the evidence in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from libsafe_nb.crate.profile import FILE, PARTS, README
from libsafe_nb.crate.words import WORDS, as_text, change_of, error_of, redacted, title_of
from libsafe_nb.record import entries, section

LONG = 24
"""Characters of a word that the README does not take out of a text of several lines."""

LISTED = 50
"""Files that the README lists of each kind; the record has them all."""


def readme(record: Mapping[str, Any]) -> bytes:
    """
    `README.md`, for somebody in twenty years who has this folder and neither the platform nor Python.

    All that comes from the record stands between backquotes, on one line, so that nothing in it is taken for Markdown.
    """
    parts = [
        _told(record),
        _touched("Files that it was given or read", record, "inputs"),
        _touched("Files that it wrote", record, "outputs"),
        _changed(record),
        _folder(record),
        CHECK,
        _missing(record),
        _secrets(record),
    ]
    return "\n\n".join(part for part in parts if part).encode() + b"\n"


CHECK = """\
## How to check it

The files here are as `SHA256SUMS` tells them if this says OK for each:

    sha256sum -c SHA256SUMS

That nobody changed `SHA256SUMS` with them is told by the container's folder `provenance/chain`. Its files are numbered,
one for each run. Each holds the SHA-256 of `record.json` (`record_sha256`) and of `SHA256SUMS` (`sums_sha256`) of its
run, and that of the file before it (`prev`), so none can be changed, added or taken out in the middle unnoticed. Look
for the one whose `run` is the identifier above."""


def _told(body: Mapping[str, Any]) -> str:
    function = section(body, "function")
    title = title_of(function)
    user = section(section(body, "agent"), "user").get("id")
    status = as_text(body.get("status"))
    rows = {
        "function": title,
        "version": function.get("version"),
        "what it does": function.get("description"),
        "author": function.get("author"),
        "notebook": function.get("name"),
        "SHA-256 of the notebook": function.get("notebook_sha256"),
        "container": section(body, "container").get("id"),
        "job": section(body, "job").get("id"),
        "asked for by user": user,
        "began": body.get("started"),
        "ended": body.get("ended") or "not known",
        "outcome": status,
        "why": error_of(body),
        "identifier": as_text(body.get("id")).removeprefix("urn:uuid:"),
        "under what right": body.get("right"),
        "repeats the run": body.get("replay_of"),
        "called by job": section(body, "parent").get("job"),
        "functions that it called": len(entries(body, "calls")) or None,
        "told by a recovery, since": section(body, "recovered").get("reason"),
        "licence of this folder": body.get("license"),
    }
    lines = [f"- {name}: {_code(value)}" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(
        [
            f"# Evidence of a run of {_code(title)}",
            "",
            "A function is a program, kept as a Jupyter notebook, that a LIBSAFE preservation platform runs on files of a"
            " container. This folder tells what happened when this one was run. Times are those of the computer that ran"
            " it, in UTC where they end in `+00:00`.",
            "",
            *([WORDS[status], ""] if status in WORDS else []),
            *lines,
        ]
    )


def _touched(title: str, body: Mapping[str, Any], name: str) -> str:
    """Inputs or outputs, with what came of each where the record tells it."""
    rows = entries(body, name)
    if not rows:
        return ""
    outcomes = {as_text(each.get("id")): each.get("outcome") for each in entries(body, "files")}
    lines = [_line(each, outcomes.get(as_text(each.get("id"))) if "id" in each else None) for each in rows]
    return "\n".join([f"## {title}", "", *_short(lines)])


def _line(entry: Mapping[str, Any], outcome: Any) -> str:
    said = {
        "id": entry.get("id"),
        "version": entry.get("version_id"),
        "bytes": entry.get("size"),
        "SHA-256": entry.get("sha256"),
        "read": entry.get("read"),
        "outcome": outcome,
    }
    told = [f"{name} {_code(value)}" for name, value in said.items() if value is not None]
    return ", ".join([f"- {_code(entry.get('path') or 'no path')}", *told])


def _changed(body: Mapping[str, Any]) -> str:
    rows = entries(body, "platform_writes")
    if not rows:
        return ""
    lines = [
        f"- {as_text(each.get('target') or 'file')} {_code(each.get('file_id') or each.get('id'))}: "
        + " ".join(_code(value) for value in change_of(each).values())
        for each in rows
    ]
    return "\n".join(["## What it changed of what the platform knows", "", *_short(lines)])


def _short(lines: list[str]) -> list[str]:
    more = len(lines) - LISTED
    return [*lines[:LISTED], *([f"- and {more} more, all told in `record.json`"] if more > 0 else [])]


def _folder(body: Mapping[str, Any]) -> str:
    parts = {name: what for name, (_, what) in PARTS.items()}
    if "notebook" not in body:
        parts = {name: parts[name] for name in ("record.json", "premis.xml", README)}
    parts[FILE] = "The same as linked data (RO-Crate 1.1), for programs."
    parts["SHA256SUMS"] = (
        "The SHA-256 of all other files; a file that is not in it is not part of this evidence."
    )
    lines = [f"- `{name}`: {what}" for name, what in parts.items()]
    return "\n".join(
        [
            "## What is in this folder",
            "",
            "All files are UTF-8 text. Which of these are there is told by `SHA256SUMS`.",
            "",
            *lines,
        ]
    )


def _missing(body: Mapping[str, Any]) -> str:
    found = body.get("not_captured")
    lines = [f"- {_code(each)}" for each in found] if isinstance(found, list) else []
    return "\n".join(["## What was not captured", "", *lines]) if lines else ""


def _secrets(body: Mapping[str, Any]) -> str:
    names = ", ".join(_code(each.get("name")) for each in entries(body, "secrets"))
    count = redacted(body)
    unknown = section(body, "recovered").get("not_searched_for")
    left_out = len(entries(section(body, "scan"), "left_out"))
    said = [
        "Keys and passwords are kept out of this folder. Where one was given to the function, only its name is here.",
        f"Given were: {names}." if names else "",
        f"The function had written them in {count} places, where they were taken out." if count else "",
        f"{left_out} things that could not be searched for them were left out." if left_out else "",
        f"Not searched for, as they were not known any more: {', '.join(map(_code, unknown))}."
        if isinstance(unknown, list) and unknown
        else "",
    ]
    return "\n".join(["## Keys", "", " ".join(each for each in said if each)])


def _code(value: Any) -> str:
    """
    A code span (CommonMark 6.1), fenced by more backquotes than stand in it.

    Lines are joined, unless there are long words in them: those can be compressed bytes, whole in the record, that would
    read as damaged here. The scan for secrets could not look into them, and nothing of the run would be stored.
    """
    text = as_text(value)
    words = text.split()
    if not text.isprintable():
        if max(map(len, words), default=0) >= LONG:
            return "(see `record.json`)"
        text = "".join(each if each.isprintable() else " " for each in " ".join(words))
    longest = max(map(len, re.findall("`+", text)), default=0)
    space = " " if "`" in text else ""
    return f"{'`' * (longest + 1)}{space}{text}{space}{'`' * (longest + 1)}" if text else "(empty)"
