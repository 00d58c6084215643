"""
What `%libsafe` shows: HTML for notebooks, without a script, and text for terminals.

What comes from a function or a file's name goes in as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from libsafe_nb.models import OUTCOMES, Run, describe
from libsafe_nb.report.markup import clip, code, dash, duration, facts, measure, note, size, table, tag, text

if TYPE_CHECKING:
    from libsafe_nb.interactive.place import Opened

LONGEST = 2000
"""Characters of one message, scrap or source."""

_COLOURS = {"COMPLETED": "#2e7d32", "RUNNING": "#1f4e79", "QUEUED": "#1f4e79"}
_LEFT = "text-align: left"
"""JupyterLab shows what is in a table at the right, as if it were numbers."""


@dataclass(frozen=True)
class Progress:
    """A run under way."""

    opened: Opened
    job: str
    done: int
    seconds: int

    def __repr__(self) -> str:
        where = f"{self.done} cells done" if self.done else "starting"
        return f"RUNNING  {self.opened.name}: {where}, {self.seconds} s" + (
            f"  job {self.job}" if self.job else ""
        )

    def _repr_html_(self) -> str:
        return tag("p", _word("RUNNING"), " ", text(repr(self).partition("  ")[2]))


@dataclass(frozen=True)
class Result:
    """A run that has ended: `cell` is the number and source of the cell that failed."""

    opened: Opened
    run: Run
    messages: Sequence[Mapping[str, Any]]
    cell: tuple[int, str] | None
    link: str | None

    @property
    def _status(self) -> str:
        return OUTCOMES[self.run.status]

    @property
    def _saved(self) -> str:
        return f"as last saved at {self.opened.saved.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"

    @property
    def _error(self) -> str | None:
        return describe(self.run.error) if self.run.error or self.run.status != "completed" else None

    def __repr__(self) -> str:
        run = self.run
        lines = [
            f"{self._status}  job {run.job}  container {run.container}  {duration(run.seconds)}",
            f"  {self.opened.name}, {self._saved}",
        ]
        if self._error:
            lines += [f"  {clip(self._error, LONGEST)}"]
        if self.cell:
            lines += [
                f"  cell {self.cell[0]}:",
                *(f"    {each}" for each in clip(self.cell[1], LONGEST).splitlines()),
            ]
        lines += [f"  {name} = {_value(value)}" for name, value in run.scraps.items()]
        lines += [f"  {_line(each)}" for each in self.messages]
        lines += [f"  evidence  {run.evidence or 'not stored yet: libsafe-nb recover'}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        run = self.run
        place = (
            tag("code", text(run.evidence)) if run.evidence else text("not stored yet: libsafe-nb recover")
        )
        if self.link:
            place = tag("a", "report.html", href=self.link, target="_blank", rel="noopener") + " in " + place
        where, source = self.cell or (None, "")
        pieces = [
            tag(
                "p",
                _word(self._status),
                text(f" job {run.job} · container {run.container} · {duration(run.seconds)}"),
            ),
            note(f"{self.opened.name}, {self._saved}; what was changed after that was not run."),
            facts(
                [
                    ("Evidence", place),
                    ("Error", text(clip(self._error, LONGEST)) if self._error else None),
                    (f"Cell {where}", tag("pre", text(clip(source, LONGEST))) if where else None),
                    *((name, code(_value(value))) for name, value in run.scraps.items()),
                ]
            ),
            _messages(self.messages),
        ]
        return tag("div", *pieces)


@dataclass(frozen=True)
class Job:
    """A job as the platform tells it."""

    job: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]

    def _facts(self) -> list[tuple[str, Any]]:
        progress = self.job.get("progress")
        return [
            ("name", self.job.get("name")),
            ("container", self.job.get("container_id")),
            ("progress", f"{progress:.0%}" if isinstance(progress, (int, float)) else None),
            ("created", self.job.get("date_create")),
            ("started", self.job.get("date_start")),
            ("ended", self.job.get("date_end")),
        ]

    def __repr__(self) -> str:
        known = "  ".join(f"{name} {value}" for name, value in self._facts() if value not in (None, ""))
        head = f"{self.job.get('status')}  job {self.job.get('id')}  {known}"
        return "\n".join([head, *(f"  {_line(each)}" for each in self.messages)])

    def _repr_html_(self) -> str:
        return tag(
            "div",
            tag("p", _word(str(self.job.get("status"))), text(f" job {self.job.get('id')}")),
            facts((name, text(value)) for name, value in self._facts() if value not in (None, "")),
            _messages(self.messages),
        )


@dataclass(frozen=True)
class Files:
    """Files of a container."""

    container: str
    pattern: str | None
    rows: Sequence[Mapping[str, Any]]
    more: bool

    @property
    def _told(self) -> str:
        fitting = f" that fit {self.pattern}" if self.pattern else ""
        count = f"the first {len(self.rows):,} files" if self.more else f"{len(self.rows):,} files"
        return f"container {self.container}: {count}{fitting}"

    def __repr__(self) -> str:
        rows = [
            (str(each["id"]), measure(each.get("size") or 0), each.get("mime") or "-", str(each["fullpath"]))
            for each in self.rows
        ]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
            for row in rows
        ]
        return "\n".join([self._told, *lines])

    def _repr_html_(self) -> str:
        rows = [
            (
                code(each["id"]) or "",
                text(each["fullpath"]),
                size(each.get("size")),
                text(each.get("mime") or "") or dash(),
            )
            for each in self.rows
        ]
        return tag(
            "div", note(self._told), table(("id", "path", "size", "type"), rows, style=_LEFT) if rows else ""
        )


def _word(status: str) -> str:
    return tag("strong", text(status), style=f"color: {_COLOURS.get(status, '#b3261e')}")


def _value(value: Any) -> str:
    return clip(json.dumps(value, ensure_ascii=False, default=str), LONGEST)


def _line(message: Mapping[str, Any]) -> str:
    file = f"file {message['file_id']}: " if message.get("file_id") else ""
    return f"{message.get('type')}  {file}{clip(str(message.get('message')), LONGEST)}"


def _messages(messages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            text(each.get("type")),
            text(clip(str(each.get("message")), LONGEST)),
            code(each.get("file_id")) or dash(),
        )
        for each in messages
    ]
    return table(("type", "message", "file"), rows, style=_LEFT) if rows else ""
