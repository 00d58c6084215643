"""
`report.html`: the evidence of a run as one page for people. Pure: no disk, no network.

    summary.py    outcome, function, parameters, files, messages, environment, gaps, how to check it
    timeline.py   the cells on one axis of time
    calls.py      the calls (flowpicture.py: their graph), and whose outputs were read
    cells.py      the notebook: markdown, code, outputs (outputs.py, ansi.py)
    untrusted.py  the wall between what an author shows and the page
    room.py       how much of a large notebook is shown
    markup.py     HTML from text

The page is meant to open in any browser in twenty years, from a disk, without a network: no script, no font, no
picture from elsewhere, and a content security policy that forbids them. The same evidence makes the same bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from libsafe_nb.report import calls, flowpicture, summary
from libsafe_nb.report.cells import Places, notebook
from libsafe_nb.report.markup import note, tag, text
from libsafe_nb.report.room import Room
from libsafe_nb.report.timeline import timeline

FILE = "report.html"

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""No script, no font, no frame, no request: styles and pictures that stand in the page itself."""

_NO_NOTEBOOK = "There is no notebook: the run's machine was lost with it."


def build(
    body: Mapping[str, Any],
    node: Mapping[str, Any] | None,
    messages: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any] | None,
) -> bytes:
    """
    The report as UTF-8 HTML.

    Parameters
    ----------
    body
        The record. One of a lost machine, which holds little, makes a page too.
    node, messages, environment
        The executed notebook, what the function told the job, and environment.json, parsed; searched for keys already.
    """
    places = Places(node)
    shown = notebook(node, body, places, Room()) if node else note(_NO_NOTEBOOK)
    sections = [
        ("Timeline", "Timeline", timeline(body, places)),
        ("Files", "Files", summary.files(body) if "inputs" in body or "files" in body else ""),
        ("Calls", "Functions that it called", calls.calls(body)),
        ("Messages", "Messages to the job", summary.said(messages, body)),
        ("Parameters", "Parameters", summary.parameters(body, node) if "payload" in body else ""),
        ("Notebook", "Notebook as it was executed", tag("div", shown, class_="notebook")),
        ("Function", "Function and run", summary.about(body)),
        ("Environment", "Environment", summary.surroundings(body, environment)),
        ("Gaps", "What is not in this evidence", summary.gaps(body, places)),
        ("Check", "How to check it", summary.checking(body)),
    ]
    present = [each for each in sections if each[2]]
    links = "".join(tag("a", name, href=f"#{name.lower()}") for name, _, _ in present)
    inside = [
        tag("section", tag("h2", text(heading)), html, id=name.lower()) for name, heading, html in present
    ]
    page = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        _head(body),
        "<body>",
        summary.outcome(body, places),
        tag("nav", links, aria_label="Sections"),
        tag("main", *("\n" + each for each in inside)),
        _foot(body),
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(page).encode("utf-8", "replace")


def _head(body: Mapping[str, Any]) -> str:
    title = f"{summary.title_of(body)}: {summary.status_words(body)} · job {(body.get('job') or {}).get('id', '–')}"
    return "\n".join(
        [
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<meta name="color-scheme" content="light dark">',
            tag("title", text(title)),
            # Without one, a browser that is served this page asks for /favicon.ico.
            '<link rel="icon" href="data:,">',
            f"<style>\n{_style()}</style>",
            "</head>",
        ]
    )


def _foot(body: Mapping[str, Any]) -> str:
    made = ((body.get("agent") or {}).get("runner") or {}).get("libsafe-nb")
    by = f"libsafe-nb {made}" if made else "libsafe-nb"
    return tag("footer", text(f"Made by {by} from the files beside it."))


@functools.cache
def _style() -> str:
    """The style sheet, part of the package."""
    import importlib.resources

    own = (importlib.resources.files("libsafe_nb") / "data" / "report.css").read_text("utf-8")
    return own + flowpicture.css()
