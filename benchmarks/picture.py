"""
The picture of all benchmarks: each ratio, by how much it is more or less than what it must reach.

    python benchmarks/picture.py [--svg docs/img/performance.svg]

Reads the rows of `results/*.json`. Text is of a grey that can be read on white and on black, the ground is left open.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import figures

GREY, REACHED, MISSED = "#808080", "#2a9d8f", "#d1495b"
SVG = Path(__file__).parent.parent / "docs" / "img" / "performance.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--svg", type=Path, default=SVG, help="the file to write")
    given = parser.parse_args()
    results = [json.loads(each.read_text()) for each in sorted(figures.RESULTS.glob("*.json"))]
    rows = [(each["title"], row) for each in results for row in each.get("rows", []) if row["target"]]
    draw(rows, given.svg)


def draw(rows: list[tuple[str, dict[str, Any]]], target: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "libsafe-nb"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.7 + 0.42 * len(rows)), layout="constrained")
    share = [row["ratio"] / row["target"] for _, row in rows]
    colours = [REACHED if each >= 1 else MISSED for each in share]
    # From the line of the target: what is missed goes to the left.
    axes.barh(range(len(rows)), [each - 1 for each in share], left=1, color=colours, height=0.6)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_xscale("log")
    most, least = max(*share, 2.0), min(*share, 0.8)
    axes.set_xlim(least / 1.15, most * 2.2)
    for place, (_, row) in enumerate(rows):
        times = "x the peer" if row["against"] == "peer" else " of the limit"
        words = f"{row['ratio']:.{1 if row['ratio'] >= 2 else 2}f}{times} (must reach {row['target']:g})"
        axes.text(max(share[place], 1) * 1.04, place, words, va="center", color=GREY, fontsize=9)
    axes.set_yticks(
        range(len(rows)), [f"{row['what']}\n{title}".replace("`", "") for title, row in rows], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xticks([1], ["what it must reach"])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.tick_params(colors=GREY, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
