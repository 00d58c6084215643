"""A history for people and programs: on a terminal, in a pipe, and as a page."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from libsafe_nb import atomic
from libsafe_nb.archive import Archive, Folder
from libsafe_nb.errors import UsageError
from libsafe_nb.history import Deed, Row
from libsafe_nb.historypage import Cell, Entry, page

BATCH = 200
"""Rows for which a terminal's table is laid out at once, so that a long history is shown while it is read."""

COLUMNS = ("started", "function", "status", "job", "ok/failed/skipped", "seconds", "evidence")
FILE_COLUMNS = ("when", "done", "path", "version", "digest", "function", "status", "job", "evidence")


WIDTHS = {
    "evidence": 6,
    "digest": 5,
    "function": 4,
    "started": 3,
    "when": 3,
    "done": 3,
    "version": 3,
    "job": 1,
}
"""Shares of a terminal's width; 2 for the others."""


def line(found: Row | Deed) -> str:
    """One line of JSON."""
    return json.dumps(found.to_json(), ensure_ascii=False)


def fields(found: Row | Deed) -> list[str]:
    """What stands in the columns of a table."""
    if isinstance(found, Deed):
        done = f"{found.what}{' (stubbed)' if found.stubbed else ''}{f': {found.detail}' if found.detail else ''}"
        digests = ", ".join(f"{name}:{value}" for name, value in found.digests.items())
        place = found.path or (f"file {found.file}" if found.file else "")
        row = found.run
        return [
            _moment(found.at),
            done,
            place,
            found.version_id or "",
            digests,
            _function(row),
            row.status,
            row.job,
            row.evidence,
        ]
    seconds = "" if found.seconds is None else f"{found.seconds:.1f}"
    status = f"{found.status}: {found.problem}" if found.problem else found.status
    counts = f"{found.ok}/{found.failed}/{found.skipped}"
    return [
        _moment(found.started),
        _function(found),
        status,
        found.job,
        counts,
        seconds,
        found.evidence,
    ]


def show(found: Iterable[Row | Deed], columns: Sequence[str]) -> int:
    """Print a table, rows as they come: laid out on a terminal, else tabs between plain text. How many there were."""
    rows = ([_printable(text) for text in fields(each)] for each in found)
    return _laid_out(rows, columns) if sys.stdout.isatty() else _plain(rows, columns)


def write(target: Path, archive: Archive, found: Iterable[Row | Deed], *, file: str | None) -> int:
    """Write the page to `target`, whole or not at all; how many entries it has."""
    entries = [_entry(each, archive, target) for each in found]
    place = Path(archive.place).resolve().name if isinstance(archive, Folder) else archive.place
    what = f"File {file} in {place}" if file else f"Runs in {place}"
    lead = f"{len(entries)} entries, oldest first, as the records tell them; libsafe-nb verify checks the records."
    try:
        atomic.write_text(target, page(what, lead, FILE_COLUMNS if file else COLUMNS, entries), mode=None)
    except OSError as exc:
        raise UsageError(f"--html {target}: cannot be written ({exc.strerror or exc})") from exc
    return len(entries)


def _plain(rows: Iterable[Sequence[str]], columns: Sequence[str]) -> int:
    count = 0
    for row in rows:
        if not count:
            print("\t".join(columns))
        count += 1
        print("\t".join(row))
    return count


def _laid_out(rows: Iterator[Sequence[str]], columns: Sequence[str]) -> int:
    # Imported here: only a terminal needs it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, count = Console(), 0
    while batch := list(itertools.islice(rows, BATCH)):
        table = Table(show_header=not count, expand=True, box=None, padding=(0, 1))
        for name in columns:
            table.add_column(name, ratio=WIDTHS.get(name, 2), overflow="fold")
        for row in batch:
            # As text: a record's words are no markup.
            table.add_row(*(Text(each) for each in row))
        console.print(table)
        count += len(batch)
    return count


def _entry(found: Row | Deed, archive: Archive, target: Path) -> Entry:
    row = found.run if isinstance(found, Deed) else found
    cells: list[Cell] = [Cell(text) for text in fields(found)]
    # A page goes to others: it tells the place in the container, not the one on this machine.
    cells[-1] = Cell(f"libsafe://{row.container or '?'}/{row.folder}", _link(row, archive, target))
    moment = found.at if isinstance(found, Deed) else found.started
    return Entry(moment, _function(row, code=False), row.status, cells)


def _link(row: Row, archive: Archive, target: Path) -> str | None:
    """
    From a page in or around a local copy to a run's report, which then moves with it; None where there is none.
    """
    if not isinstance(archive, Folder):
        return None
    report = Path(row.evidence).resolve() / "report.html"
    home, copy = target.resolve().parent, Path(archive.place).resolve()
    beside = home.is_relative_to(copy) or copy.is_relative_to(home)
    return quote(os.path.relpath(report, home)) if beside and report.is_file() else None


def _function(row: Row, *, code: bool = True) -> str:
    name = f"{row.function} {row.version}".strip()
    told = f"{name} ({row.code})" if code and row.code else name
    if row.workflow and code:
        number = row.workflow["number"]
        step = f"step {number}" if number else "step"
        told += f", {step} of {row.workflow['function'] or 'a session'}, job {row.workflow['job']}"
    if row.replay_of is None or not code:
        return told
    # The address is in --json; here its job says as much.
    found = re.search(r"-job([^/]*)/[^/]*$", row.replay_of)
    return f"{told}, replay of {f'job {found[1]}' if found else row.replay_of}"


def _moment(text: str) -> str:
    return text.replace("T", " ")[:19]


def _printable(text: Any) -> str:
    """Without control characters: a record's words move no cursor and end no line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", str(text))
