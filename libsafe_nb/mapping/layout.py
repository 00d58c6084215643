"""
What a map keeps in its container, under `provenance/maps/{map}/`, where writes start nothing and nothing is overwritten.

    {name of the notebook}            its bytes, which each run executes
    batches/{first:08d}.json          ids of files: a list of batches, beginning with that number
    plan.json                         all else that was settled; put last, so where it is the plan is whole
    job.json                          the parent job
    claims/{unit}.{attempt:03d}.json  who began a unit, and under which run's id
    apart/{unit}.json                 the unit did not complete: `done` tells how, and what took its place
    done/{unit}.json                  how a unit ended; the first wins
    failed.csv                        the files that did not complete
    finished.json                     the counts; put when the parent job is closed
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from libsafe_nb import record
from libsafe_nb.errors import NotebookError, ObjectNotFound, PreconditionFailed, StorageError, UsageError
from libsafe_nb.mapping import units

if TYPE_CHECKING:
    from libsafe_nb.storage import Storage

FOLDER = "provenance/maps"
SCHEMA = "libsafe-nb-map/1"
CHUNK = 10_000
"""Files whose ids lie in one object."""


@dataclass(frozen=True)
class Map:
    """
    What was settled before the first batch.

    Attributes
    ----------
    each
        Files of a batch; the last may have fewer.
    batches, files
        How many there are.
    retries
        See `units.pieces`.
    timeout
        Seconds of each run, or None.
    chosen
        How the files were chosen: expressions, by name.
    """

    map: str
    container: str
    notebook: str
    notebook_sha256: str
    params: dict[str, Any]
    each: int
    retries: int
    timeout: float | None
    batches: int
    files: int
    created: str
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def per_chunk(self) -> int:
        """Batches whose ids lie in one object."""
        return max(1, CHUNK // self.each)

    def size(self, batch: int) -> int:
        """Files of a batch."""
        return min(self.each, self.files - batch * self.each)

    def units(self) -> Iterator[str]:
        return (units.name_of(number) for number in range(self.batches))


def new_name() -> str:
    """Of a map; by the time of its beginning, so that the last one is the newest."""
    moment = datetime.now(UTC)
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z-{uuid.uuid4().hex[:8]}"


class Shelf:
    """A map's objects: read, and put once."""

    def __init__(self, storage: Storage, container: str, map: str) -> None:
        if not map or "/" in map or not map.isprintable():
            raise UsageError(f"map {map!r}: expected its name, such as 20261126T101500000Z-1a2b3c4d")
        self.storage, self.container, self.map = storage, container, map

    def path(self, name: str) -> str:
        return f"{FOLDER}/{self.map}/{name}"

    def address(self, name: str) -> str:
        return f"libsafe://{self.container}/{self.path(name)}"

    def get(self, name: str) -> Any:
        """
        An object's JSON; None where there is none.

        Raises
        ------
        StorageError
            It is no JSON, or the storage did not answer.
        """
        try:
            data = self.storage.get(self.container, self.path(name))
        except ObjectNotFound:
            return None
        try:
            return json.loads(data)
        except ValueError as exc:
            raise StorageError(f"{self.address(name)}: expected JSON, found something else ({exc})") from exc

    def put(self, name: str, body: Any) -> None:
        """
        Put an object, unless there is one.

        Raises
        ------
        PreconditionFailed
            There is another.
        """
        data = record.canonical(body)
        self.storage.put(
            self.container, self.path(name), data, if_none_match=True, content_type="application/json"
        )

    def leave(self, name: str, body: Any) -> None:
        """Put an object; another that is there will do."""
        with contextlib.suppress(PreconditionFailed):
            self.put(name, body)

    def names(self, folder: str, prefix: str = "") -> Iterator[str]:
        """Names in a folder that begin so, in order, without `.json`."""
        below = self.path(f"{folder}/")
        for each in self.storage.list(self.container, f"{below}{prefix}"):
            yield each.path.removeprefix(below).removesuffix(".json")

    # The plan

    def settle(self, plan: Map, notebook: bytes, batches: Iterable[list[str]]) -> Map:
        """
        Write the plan and its batches, as they come; with how many there are, once they are written.

        Nothing is one that is not whole: what a killed one leaves has no `plan.json`.
        """
        self.storage.put(self.container, self.path(plan.notebook), notebook, if_none_match=True)
        count = files = 0
        chunk: list[list[str]] = []

        def close() -> None:
            if chunk:
                self.put(f"batches/{units.name_of(count - len(chunk))}.json", list(chunk))
                chunk.clear()

        for batch in batches:
            chunk.append(batch)
            count, files = count + 1, files + len(batch)
            if len(chunk) == plan.per_chunk:
                close()
        close()
        plan = dataclasses.replace(plan, batches=count, files=files)
        self.put("plan.json", {"schema": SCHEMA, **dataclasses.asdict(plan)})
        return plan

    def plan(self) -> Map:
        """
        Raises
        ------
        UsageError
            There is no such map, or it is of another version.
        """
        found = self.get("plan.json")
        if found is None:
            raise UsageError(f"container {self.container}: expected a map {self.map}, found none")
        if found.pop("schema", None) != SCHEMA:
            raise UsageError(f"{self.address('plan.json')}: expected {SCHEMA}, found another version")
        return Map(**found)

    def notebook(self, plan: Map) -> bytes:
        """The notebook's bytes, which are those that the plan names."""
        data = self.storage.get(self.container, self.path(plan.notebook))
        if record.digest(data) != plan.notebook_sha256:
            raise NotebookError(
                f"{self.address(plan.notebook)}: expected the bytes that were planned (sha256"
                f" {plan.notebook_sha256[:12]}…), found others",
                notebook=plan.notebook,
            )
        return data

    def chunk(self, plan: Map, batch: int) -> tuple[int, list[list[str]]]:
        """The object that has a batch's ids, as the number of its first batch and all of them."""
        first = batch - batch % plan.per_chunk
        found = self.get(f"batches/{units.name_of(first)}.json")
        if found is None:
            raise StorageError(f"{self.address('batches')}: expected the batches from {first}, found none")
        return first, found


def maps(storage: Storage, container: str) -> Iterator[str]:
    """The names of a container's maps, the newest first."""
    names = [each for each in storage.folder(container, FOLDER) if isinstance(each, str)]
    yield from sorted(names, reverse=True)
