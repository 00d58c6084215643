"""A notebook that is looked at, and what a rule finds in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

from libsafe_nb.checking.cells import Program, read
from libsafe_nb.redact import SecretSet

T = TypeVar("T")


@dataclass(frozen=True)
class Examined:
    """A notebook that is looked at, as a parsed JSON of format 4, and the keys that its author is known to have."""

    name: str
    book: dict[str, Any]
    secrets: SecretSet = field(default_factory=SecretSet)

    _made: dict[Callable[[Examined], Any], Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, make: Callable[[Examined], T]) -> T:
        """What `make` makes of this notebook, made once for all rules."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast(T, self._made[make])

    @property
    def cells(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each cell with its place, counted from 1 as a reader does."""
        return enumerate(self.book["cells"], 1)

    @property
    def code_cells(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Those that a run executes as the author wrote them: not what papermill injected in an earlier run."""
        return (
            (number, cell)
            for number, cell in self.cells
            if cell.get("cell_type") == "code" and "injected-parameters" not in tags(cell)
        )

    @property
    def metadata(self) -> dict[str, Any]:
        found = self.book.get("metadata")
        return found if isinstance(found, dict) else {}

    @property
    def language(self) -> str:
        """As the runner sees it: the kernel's, else that of the last session, else Python."""
        spec, info = self.metadata.get("kernelspec") or {}, self.metadata.get("language_info") or {}
        return str(spec.get("language") or info.get("name") or "python").lower()

    @property
    def is_python(self) -> bool:
        return self.language == "python"

    @cached_property
    def program(self) -> Program:
        """Its Python, parsed once for all rules; without cells where its language is another."""
        return read([(number, lines_of(cell)) for number, cell in self.code_cells] if self.is_python else [])


def tags(cell: dict[str, Any]) -> list[Any]:
    found = (cell.get("metadata") or {}).get("tags")
    return found if isinstance(found, list) else []


def lines_of(cell: dict[str, Any]) -> str:
    """A cell's source with the line ends that Python counts by."""
    return str(cell.get("source", "")).replace("\r\n", "\n").replace("\r", "\n")


Found = tuple[int | None, int, str]
"""Cell, line and message."""

Finder = Callable[[Examined], Iterator[Found]]
