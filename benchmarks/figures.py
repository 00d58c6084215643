"""What the benchmarks share: rounds in which each way takes its turn, a table of medians with ratios, and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def options(doc: str | None, *, runs: int = 7) -> argparse.ArgumentParser:
    """The options that all have: how many rounds, and where the JSON goes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help="rounds; the medians are told")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
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


def processor_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def below(pid: int, program: str) -> list[int]:
    """The processes of this name, by their command line, that `pid` or one of its children started."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(each.name)] = (each / "cmdline").read_text().split("\0")[0]
            except (OSError, ValueError):
                continue
    found = []
    for candidate, name in names.items():
        above = candidate
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and Path(name).name == program:
            found.append(candidate)
    return found


def replaced(page: str, marks: tuple[str, str], text: str) -> str:
    """A page with the text between two marks replaced."""
    before, _, rest = page.partition(marks[0])
    return before + marks[0] + text + marks[1] + rest.partition(marks[1])[2]
