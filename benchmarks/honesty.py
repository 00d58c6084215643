"""
What plain papermill and `libsafe-nb run` say of every case of the table of honesty, measured side by side.

    python benchmarks/honesty.py [--rows 1,7,28] [--to docs/honesty.md]

Writes the page. With `--rows` it prints the page of these rows and writes nothing. Takes some eight minutes on two
cores; the cases and what ours must say are in `tests/honesty.py`, asserted by `tests/test_honesty.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from libsafe_nb import atomic, local

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import honesty  # noqa: E402 - from the tests
from honesty import CASES, MIB, Answer, CannotBeMade, Case  # noqa: E402

PACKAGES = ("libsafe-nb", "papermill", "nbclient", "ipykernel", "jupyter_client")


@dataclass
class Row:
    """A case and what both made of it; the third is papermill's program with our engine, where that was asked for."""

    case: Case
    plain: Answer
    ours: Answer
    engine: Answer | None = None


def main() -> None:
    options = argparse.ArgumentParser(description="Measure the table of honesty and write its page.")
    options.add_argument("--rows", help="only these, by number, separated by commas; printed, not written")
    options.add_argument("--to", type=Path, default=ROOT / "docs" / "honesty.md")
    given = options.parse_args()
    numbers = {int(each) for each in given.rows.split(",")} if given.rows else set(honesty.ROWS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIBSAFE_NB_HOME"] = f"{folder}/home"
        with local.serve(f"{folder}/platform") as served:
            rows = [
                row
                for case in CASES
                if case.row in numbers and (row := measure(case, served.settings)) is not None
            ]
    text = page(rows)
    if given.rows:
        print(text)
    else:
        atomic.write_text(given.to, text, 0o644)
        print(f"wrote {given.to}")


def measure(case: Case, settings: object) -> Row | None:
    """Both programs, and our engine; None where this machine does not let us make the case."""

    def folder() -> Path:
        return Path(tempfile.mkdtemp(prefix="honesty-", dir=os.environ["LIBSAFE_NB_HOME"]))

    Path(os.environ["LIBSAFE_NB_HOME"]).mkdir(exist_ok=True)
    try:
        row = Row(case, honesty.plain(case, folder()), honesty.ours(case, folder(), settings))
        if case.engine:
            row.engine = honesty.plain(case, folder(), "libsafe")
    except CannotBeMade as exc:
        print(f"{case.key}: left out, {exc}", flush=True)
        return None
    print(f"{case.key}\n    {told(case, row.plain)}\n    {told(case, row.ours)}", flush=True)
    return row


# ------------------------------------------------------------- in words


def told(case: Case, answer: Answer) -> str:
    """One answer in a few words; in bold what is not true."""
    parts = [_exit(case, answer), _file(answer)]
    if answer.working_copy:
        parts.append(f"left behind: {_states(answer, answer.working_copy)}; recovered")
    if answer.cells:
        parts.append(_states(answer, answer.cells))
    if answer.exception is None and answer.lies:
        parts.append("exception null")
    if answer.began and not answer.cells:
        many = f"{len(answer.began)} cell" + ("s" if len(answer.began) > 1 else "")
        parts.append(f"**{many} ran, and nothing tells of it**")
    if answer.size > MIB:
        parts.append(f"{answer.size / 1e6:.0f} MB")
    if answer.peak > 200 * MIB:
        parts.append(f"runner {answer.peak / MIB:.0f} MiB")
    if answer.record and answer.record["truncated"]:
        parts.append("what was cut is told")
    if case.payload is not None:
        parts.append(f"secret in clear: {answer.secrets or 'nowhere'}" + (" times" if answer.secrets else ""))
    if answer.job:
        parts.append(f"job {answer.job}")
    elif not answer.cells and (answer.exit or 0) > 0:
        parts.append("traceback" if "Traceback" in answer.stderr else "one sentence")
    return " · ".join(part for part in parts if part)


def _exit(case: Case, answer: Answer) -> str:
    if answer.exit is None:
        return f"had not ended after {answer.seconds:.0f} s"
    code = {-9: "killed", -15: "ended by the signal"}.get(answer.exit, f"exit {answer.exit}")
    return code if answer.exit == -9 else f"{code}, {answer.seconds:.1f} s"


def _file(answer: Answer) -> str:
    if answer.file == "valid":
        return "valid, kept elsewhere" if answer.elsewhere else "valid"
    return "no file" if answer.file == "none" else f"**{answer.file}**"


def _states(answer: Answer, states: list[str]) -> str:
    """The cells' states, equal neighbours as one; bold where they are false."""
    words = []
    numbered = [(state, n in answer.lies) for n, state in enumerate(states)]
    for (state, false), group in groupby(numbered):
        many = len(list(group))
        text = f"{state} x{many}" if many > 1 else state
        words.append(f"**{text}**" if false else text)
    return ", ".join(words)


# ------------------------------------------------------------- the page


def page(rows: list[Row]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lies = {
        name: sum(bool(getattr(row, name).lies) for row in rows if getattr(row, name))
        for name in ("plain", "ours")
    }
    head = f"""\
# Does the record tell the truth?

Every way in which the execution of a notebook was seen to end: what plain papermill says of it, and what
`libsafe-nb run` says. Both are run as programs, from outside, one after the other. Which cells ran is not asked of the
record: each cell makes a file when it begins and another when it ends. **Bold** is what is not true.

Of {len(rows)} cases, a cell that died or never ran is told *completed* in {lies["plain"]} by plain papermill, in
{lies["ours"]} by `libsafe-nb run`.

Made by `python benchmarks/honesty.py` on {datetime.now(UTC):%Y-%m-%d}, with Python {platform.python_version()}, {versions},
{os.cpu_count()} cores. Seconds are from what is done to the program to its end, else from its start; a machine at work on
something else makes them longer. The same is asserted by `tests/test_honesty.py`.

"""
    lines = ["| | case | plain papermill | `libsafe-nb run` |", "|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row.case.row} | {row.case.name} | {told(row.case, row.plain)} | {told(row.case, row.ours)} |"
        )
    parts = [
        _wrapped(head),
        "\n".join(lines) + "\n",
        "\n## What differs\n\n",
        *_differences(rows),
        *_engine(rows),
        *_before(rows),
    ]
    return "".join(parts)


def _wrapped(text: str) -> str:
    """Paragraphs filled to the width of the other pages."""
    paragraphs = text.split("\n\n")
    filled = [
        "\n".join(textwrap.wrap(each, 120, break_long_words=False, break_on_hyphens=False))
        for each in paragraphs
    ]
    return "\n\n".join(filled).rstrip("\n") + "\n\n"


def _differences(rows: list[Row]) -> list[str]:
    """Each difference once, with the rows that show it."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.case.better:
            found.setdefault(row.case.better, []).append(row.case.row)
    return [f"- {', '.join(str(n) for n in sorted(set(of)))}: {better}.\n" for better, of in found.items()]


def _engine(rows: list[Row]) -> list[str]:
    lines = [f"- {row.case.name}: {told(row.case, row.engine)}.\n" for row in rows if row.engine is not None]
    return (
        ["\n## papermill's own program with our engine (`papermill … --engine libsafe`)\n\n", *lines]
        if lines
        else []
    )


def _before(rows: list[Row]) -> list[str]:
    """Where plain papermill answers otherwise than when it was measured first: one trial is not a law."""
    lines = [
        f"- {row.case.row}, {row.case.name}: was exit {row.case.measured.exit}, {row.case.measured.says}; "
        f"is {told(row.case, row.plain)}{row.case.varies and f' ({row.case.varies})'}.\n"
        for row in rows
        # Without an exit code it never ended; where nobody waits for that here, there is nothing to compare.
        if (row.case.measured.exit is not None or row.case.never) and row.plain.exit != row.case.measured.exit
    ]
    return ["\n## Plain papermill, otherwise than measured before\n\n", *lines] if lines else []


if __name__ == "__main__":
    main()
