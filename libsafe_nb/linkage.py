"""
How the records of a workflow are linked. Pure.

    caller's record    `calls`: of each call its number, the sha256 of its record, and which other calls' outputs it used
    called record      `parent`: who called it; `used`: the runs whose outputs it read, each with its record's sha256

A caller reads the record of what it called when that has ended: `account` is what it keeps of it. A called run looks up,
at its own end, who wrote what it read (`origins.py`). Whoever makes calls may tell more in the events of a run: with a call
(`kind` `child`) `used` by numbers, `after` and `reused`; with a called run (`kind` `used`, by `run`) the `scraps` it was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from libsafe_nb import record

FILES = 20
"""Files that a call's entry tells of each kind; the called run's own record has them all."""

USED = ("run", "job", "function", "evidence", "record_sha256", "files", "scraps")
"""What a record says of a run whose outputs it used."""

Shape = dict[str, Any]


def account(data: bytes) -> Shape:
    """
    What a caller's record says of a called run's record, from its bytes; empty where it is none.

    `used_runs` are the ids of the runs that it used, with how many files.
    """
    body = _parsed(data)
    if body is None:
        return {}
    read = [each for each in record.entries(body, "inputs") if each.get("read") != "none"]
    return {
        "record_sha256": record.digest(data),
        "code_sha256": record.section(body, "function").get("code_sha256"),
        "inputs": [_file(each, body) for each in read[:FILES]],
        "outputs": [_file(each, body) for each in record.entries(body, "outputs")[:FILES]],
        "used_runs": [
            {name: each.get(name) for name in ("run", "files", "scraps")}
            for each in record.entries(body, "used")
        ],
    }


def outputs(data: bytes) -> list[Shape]:
    """All files that a run wrote, from the bytes of its record; none where it is none."""
    body = _parsed(data)
    return [] if body is None else [_file(each, body) for each in record.entries(body, "outputs")]


def _parsed(data: bytes) -> Shape | None:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _file(entry: Mapping[str, Any], body: Mapping[str, Any]) -> Shape:
    home = record.section(body, "container").get("id")
    told = {name: entry.get(name) for name in ("path", "version_id", "size", "sha256")}
    return {"container": entry.get("container") or home, **told}


def calls(events: Iterable[Mapping[str, Any]]) -> list[Shape]:
    """
    `record.calls`, each with the numbers of the calls that it `used`: as its own record tells by their runs, and as the
    caller told. Null where neither is known.
    """
    found = record.calls(events)
    numbers = {each["run"]: each["number"] for each in found if each.get("run")}
    for each in found:
        told = {entry["number"]: dict(entry) for entry in each["used"] or () if "number" in entry}
        runs = each.pop("used_runs")
        for used in runs or ():
            number = numbers.get(used.get("run"))
            if number is not None and number != each["number"]:
                known = {name: value for name, value in used.items() if name != "run" and value is not None}
                told[number] = {**told.get(number, {}), "number": number, **known}
        each["used"] = None if runs is None and each["used"] is None else [told[one] for one in sorted(told)]
    return found


def used(events: Iterable[Mapping[str, Any]]) -> list[Shape]:
    """The runs whose outputs this one used, each once: what is told of one twice is told together."""
    found: dict[str, Shape] = {}
    for event in events:
        if event.get("kind") == "used" and event.get("run"):
            entry = found.setdefault(str(event["run"]), dict.fromkeys(USED))
            entry.update({name: event[name] for name in USED if event.get(name) is not None})
    return list(found.values())
