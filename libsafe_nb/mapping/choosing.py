"""The files of a map: those of its container that fit, page by page, in batches of ids."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from libsafe_nb.client import Client, batches
from libsafe_nb.errors import UsageError
from libsafe_nb.objects import is_evidence


@dataclass(frozen=True)
class Chosen:
    """
    What a file must be like, as triggers say it; None: as it may be.

    Attributes
    ----------
    path_regex, name_regex
        Searched in the path, which begins with a slash, and in the file's name.
    mime
        A pattern such as `image/*`.
    size_min, size_max
        Bytes.
    """

    path_regex: str | None = None
    name_regex: str | None = None
    mime: str | None = None
    size_min: int | None = None
    size_max: int | None = None

    def told(self) -> dict[str, Any]:
        """Those that are set, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def check(self) -> None:
        """`UsageError` where an expression is none."""
        for name in ("path_regex", "name_regex"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as exc:
                raise UsageError(
                    f"{name}: expected an expression, got {getattr(self, name)!r} ({exc})"
                ) from exc

    @cached_property
    def _tests(self) -> list[Callable[[Mapping[str, Any]], bool]]:
        found: list[Callable[[Mapping[str, Any]], bool]] = []
        if self.path_regex:
            path = re.compile(self.path_regex)
            found.append(lambda row: path.search(str(row["fullpath"])) is not None)
        if self.name_regex:
            name = re.compile(self.name_regex)
            found.append(lambda row: name.search(str(row["filename"])) is not None)
        if self.mime:
            mime = self.mime.lower()
            found.append(lambda row: fnmatch.fnmatchcase(str(row.get("mime") or "").lower(), mime))
        least, most = self.size_min, self.size_max
        if least is not None:
            found.append(lambda row: int(row["size"]) >= least)
        if most is not None:
            found.append(lambda row: int(row["size"]) <= most)
        return found

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of a listing is such a file, and no evidence."""
        if row.get("type") == "FOLDER" or is_evidence(str(row["fullpath"])):
            return False
        return all(test(row) for test in self._tests)


def in_batches(
    client: Client,
    container: str,
    chosen: Chosen,
    each: int,
    seen: Callable[[int], None] = lambda count: None,
) -> Iterator[list[str]]:
    """Ids of the files that fit, as the platform lists them, `each` at a time; `seen` is told how many there were."""

    def ids() -> Iterable[str]:
        for count, row in enumerate(client.files(container), 1):
            if count % 10_000 == 0:
                seen(count)
            if chosen.fits(row):
                yield row["id"]

    yield from batches(ids(), each)
