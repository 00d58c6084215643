"""How much of a notebook the report shows. The notebook beside it holds everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from libsafe_nb.report.markup import beginning, ending, note

OUTPUT = 100_000
"""Characters of one output or one cell's source."""
RICH = 20_000
"""Characters of one cell's markdown or code beyond which it is shown plainly: rendering costs a hundred times escaping."""
OVERHEAD = 200
"""What a cell or an output costs besides its text, so that many empty ones are bounded too."""


class Part(NamedTuple):
    """The beginning of a text and its end, and how many characters between them are not shown."""

    head: str
    tail: str
    left_out: int


@dataclass
class Room:
    """
    What is left for the outputs and sources that are still to come.

    Attributes
    ----------
    text
        Characters, before they are escaped.
    images
        Characters of base64, which is a third more than the images' bytes.
    rich
        Characters to colour or to render from markdown.
    """

    text: int = 5_000_000
    images: int = 13_600_000
    rich: int = 150_000

    def enter(self) -> bool:
        """Begin with a cell or an output; false where nothing more fits."""
        self.text -= OVERHEAD
        return self.text > 0

    def part(self, whole: str, limit: int = OUTPUT) -> Part:
        """As much of a text as fits: the beginning, and the end, where errors stand."""
        allowed = max(0, min(limit, self.text))
        self.text -= min(len(whole), allowed)
        if len(whole) <= allowed:
            return Part(whole, "", 0)
        head, tail = beginning(whole, allowed - allowed // 4), ending(whole, allowed // 4)
        return Part(head, tail, len(whole) - len(head) - len(tail))

    def picture(self, encoded: str) -> bool:
        """Whether an image still fits."""
        if len(encoded) > self.images:
            return False
        self.images -= len(encoded)
        return True

    def colour(self, source: str) -> bool:
        """Whether a source may be rendered richly."""
        if len(source) > min(RICH, self.rich):
            return False
        self.rich -= len(source)
        return True


def cut(count: int, what: str = "characters") -> str:
    """The line that stands where something is left out."""
    return note(f"{count:,} {what} left out of this page; executed.ipynb holds them.") if count else ""
