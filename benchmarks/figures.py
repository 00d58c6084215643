"""
What the benchmarks share: rounds in which each way takes its turn, rows with ratio and target, and where they are kept.

Each writes `results/NAME.json`, in which `rows` are those of `Row`, and with `--page` the table between the marks
`<!-- NAME -->` and `<!-- end of NAME -->` of that page. `picture.py` draws the rows of all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """
    One line of a table: medians of ours, of the peer and of the limit, in `unit`, and the ratio that counts.

    `ratio` is how many times as fast as the peer, or what part of the limit's speed; `against` says which, and `target` what
    it must reach (None: nothing was promised).
    """

    what: str
    ours: float
    peer: float | None
    limit: float | None
    ratio: float
    against: str
    target: float | None
    unit: str = "s"


def table(head: str, rows: Sequence[Row]) -> str:
    """The rows as a table in markdown; `head` says what was measured, how often and in which unit."""
    lines = [f"| {head} | ours | peer | limit | ratio | must reach |", "|---|---|---|---|---|---|"]
    for row in rows:
        times = "x the peer" if row.against == "peer" else " of the limit"
        numbers = " | ".join("" if each is None else _short(each) for each in (row.ours, row.peer, row.limit))
        target = "" if row.target is None else f"{row.target:g}{times}"
        lines.append(
            f"| {row.what} | {numbers} | **{row.ratio:.{1 if row.ratio >= 2 else 2}f}**{times} | {target} |"
        )
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def keep(
    name: str, rows: Sequence[Row], text: str, *, path: Path | None, page: Path | None, **more: Any
) -> None:
    """Print a benchmark's table, write its JSON (`RESULTS` where no path is given), and put the table into the page."""
    print("\n" + text)
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write(path, name=name, rows=[asdict(each) for each in rows], **more)
    if page is not None:
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.read_text().partition(begin)
        if not found or end not in rest:
            raise SystemExit(f"{page}: expected the marks {begin.strip()} and {end}, found no such pair")
        page.write_text(before + begin + text + end + rest.partition(end)[2])


def made() -> str:
    """The sentence below a table: when, with what and how busy; and that the machine was too busy, if it was."""
    when, load, cores = time.strftime("%Y-%m-%d", time.gmtime()), os.getloadavg()[2], os.cpu_count() or 1
    told = f"Made on {when}, Python {platform.python_version()}, {cores} cores, load {load:.1f} (15 minutes)."
    if load > 2 * cores:
        told += " Other work kept the cores busy: what needs both of them is told too slow, and the turns differ much."
    return told + "\n"


def options(doc: str | None, *, runs: int = 7) -> argparse.ArgumentParser:
    """The options that all have: how many rounds, and where the JSON goes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help="rounds; the medians are told")
    parser.add_argument("--json", type=Path, help="where the figures go (benchmarks/results/NAME.json)")
    parser.add_argument("--page", type=Path, help="a page with the marks, whose table is replaced")
    return parser


def rounds(ways: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; a round before the first warms up. By turns, so that a noisy minute hits all."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, way in ways.items():
            seconds = way()
            if turn:
                taken[name].append(seconds)
        if turn:
            print(
                f"round {turn}: " + ", ".join(f"{name} {each[-1]:.3f} s" for name, each in taken.items()),
                flush=True,
            )
    return taken


def ratio(taken: Mapping[str, list[float]], of: str, to: str) -> float:
    """The median of the rounds' own ratios: what one round has in noise, both have."""
    return statistics.median(a / b for a, b in zip(taken[of], taken[to], strict=True))


def tell(title: str, taken: Mapping[str, list[float]], **more: Any) -> dict[str, Any]:
    """Print the medians; the same as data."""
    print(f"\n{title}")
    for name, each in taken.items():
        print(f"  {name:<44} {statistics.median(each):8.3f} s  ({min(each):.3f} to {max(each):.3f})")
    for name, value in more.items():
        print(
            f"  {name.replace('_', ' '):<44} {value:8.3f}"
            if isinstance(value, float)
            else f"  {name}: {value}"
        )
    return {
        "title": title,
        "medians": {name: statistics.median(each) for name, each in taken.items()},
        "seconds": dict(taken),
        **more,
    }


def write(path: Path | None, **figures: Any) -> None:
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if path is not None:
        path.write_text(json.dumps({**figures, "machine": machine}, indent=1) + "\n")


def servers(platform_of: int) -> list[int]:
    """What serves the bytes of the local platform that this process started: the S3 server, and the front before it."""
    return [*below(platform_of, "weed"), *_with(platform_of, "libsafe_nb.local.s3side")]


def processor_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def below(pid: int, program: str) -> list[int]:
    """The processes of this name, by their command line, that `pid` or one of its children started."""
    return [each for each, words in _descendants(pid).items() if Path(words[0]).name == program]


def _with(pid: int, word: str) -> list[int]:
    return [each for each, words in _descendants(pid).items() if word in words]


def _descendants(pid: int) -> dict[int, list[str]]:
    """The command line of each process that `pid` or one of its children started."""
    parents: dict[int, int] = {}
    commands: dict[int, list[str]] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(each.name)] = (each / "cmdline").read_text().split("\0")
            except (OSError, ValueError):
                continue
    found = {}
    for candidate, words in commands.items():
        above = parents[candidate]
        while above in parents and above != pid:
            above = parents[above]
        if above == pid:
            found[candidate] = words
    return found
