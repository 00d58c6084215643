"""
What authors' own tests work with: a container for one test, and a run with all that it left.

The pytest plug-in (`pytest_plugin.py`) makes both on a local platform that lasts as long as the tests; `docs/testing.md`
shows how they are used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libsafe_nb import local, runner
from libsafe_nb.compat import forms
from libsafe_nb.compat.item import Item
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import UsageError
from libsafe_nb.models import Run
from libsafe_nb.papermill_io import split
from libsafe_nb.trees import laid_out


@contextlib.contextmanager
def platform(folder: Path) -> Iterator[Connection]:
    """
    A local platform over an empty `folder`, with a home of its own: nothing of the user's settings is used or changed.

    It ends with the block, and also when this process is killed.
    """
    with local.serve(folder / "platform") as served:
        settings = dataclasses.replace(served.settings, home=folder / "home")
        with contextlib.closing(connect(settings=settings)) as connection:
            yield connection


@dataclass(frozen=True)
class Container:
    """A container of one test's own; `str(container)` is its id."""

    id: str
    connection: Connection = field(repr=False)

    def __str__(self) -> str:
        return self.id

    def put(self, path: str, source: bytes | str | Path) -> Item:
        """Store bytes, a text in UTF-8 or a local file at `path`, and return the file as `file` does."""
        data = source.encode() if isinstance(source, str) else source
        if isinstance(data, Path):
            self.connection.storage.upload(self.id, path, data)
        else:
            self.connection.storage.put(self.id, path, data)
        return self.file(path)

    def read(self, path: str) -> bytes:
        """
        The bytes of a file, as they are now.

        Raises
        ------
        ObjectNotFound
            There is none.
        """
        return self.connection.storage.get(self.id, path)

    def file(self, path: str) -> Item:
        """
        What the platform knows of a file: `id`, `size`, `hashes` (`{"md5": …}`), `tags` and the rest, and its `metadata` as
        `{IECODE: value}`.

        Raises
        ------
        NotFound
            There is no such file.
        """
        client = self.connection.client
        found = Item(client.file(client.file_by_path(self.id, path)["id"]))
        found["metadata"] = forms.flat(client.metadata(found["id"])) or {}
        return found

    @property
    def files(self) -> list[str]:
        """The paths of all files, sorted; without the evidence of runs (`/provenance/`)."""
        found = (each.path for each in self.connection.storage.list(self.id))
        paths = sorted(f"/{path.lstrip('/')}" for path in found)
        return [path for path in paths if not path.startswith("/provenance/") and not path.endswith("/")]


@dataclass
class NotebookRun(Run):
    """A `Run` that a test looks into; what it left is read from its evidence when it is asked for."""

    place: Container | None = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """`record.json`: all that is known of the run."""
        found: dict[str, Any] = json.loads(self._evidence("record.json"))
        return found

    @functools.cached_property
    def notebook(self) -> Any:
        """The executed notebook, as nbformat reads it."""
        import nbformat

        return nbformat.reads(self._evidence("executed.ipynb").decode(), as_version=4)

    @functools.cached_property
    def messages(self) -> list[Item]:
        """What the function said to its job, in order: `type`, `message`, `file_id`, `at`."""
        return [Item(json.loads(line)) for line in self._evidence("messages.jsonl").splitlines()]

    def file(self, path: str) -> Item:
        """As `Container.file`, in the run's container."""
        return self._container.file(path)

    def read(self, path: str) -> bytes:
        """As `Container.read`, in the run's container."""
        return self._container.read(path)

    @property
    def _container(self) -> Container:
        assert self.place is not None
        return self.place

    def _evidence(self, name: str) -> bytes:
        if self.evidence is None:
            raise UsageError(f"run {self.run}: it left no evidence ({self.status}: {self.error})")
        return self._container.read(split(f"{self.evidence}{name}")[1])


def run(
    container: Container,
    notebook: str | Path,
    *,
    files: Sequence[str | Path] = (),
    params: Mapping[str, Any] | None = None,
    find: Callable[[str], Path] = Path,
    **options: Any,
) -> NotebookRun:
    """
    Run a notebook as `libsafe_nb.run` does, in `container`.

    Parameters
    ----------
    files
        In their order: a local file is stored as `/{basename}`, a local folder with all that lies in it; else a path in the
        container (`/a.txt` or `libsafe://CONTAINER/a.txt`) or a file's id.
    find
        Where a relative local path lies.
    options
        Those of `libsafe_nb.run`.
    """
    options.setdefault("settings", container.connection.settings)
    place = dataclasses.replace(container, id=str(options.pop("container", container.id)))
    book = notebook if str(notebook).startswith("libsafe://") else find(str(notebook))
    names = _stored(place, files, find)
    done = runner.run(
        options.pop("payload", None), book, container=place.id, files=names, params=params, **options
    )
    return NotebookRun(**{**vars(done), "place": place})


def _stored(container: Container, files: Sequence[str | Path], find: Callable[[str], Path]) -> list[str]:
    """The files by their paths or ids in the container; local ones are put there."""
    found = [_located(container, each, find) for each in files]
    local_files = laid_out(each for each in found if isinstance(each, Path))
    for name, file in local_files.items():
        container.put(name, file)
    names: list[str] = []
    for each in found:
        names += laid_out([each]) if isinstance(each, Path) else [each]
    return names


def _located(container: Container, name: str | Path, find: Callable[[str], Path]) -> str | Path:
    if isinstance(name, str) and name.startswith("libsafe://"):
        owner, path = split(name)
        if owner != container.id:
            raise UsageError(f"{name}: expected a file of container {container.id}, in which the test runs")
        return f"/{path}"
    local_ = find(str(name))
    if isinstance(name, str) and not local_.is_file() and (name.startswith("/") or name.isdigit()):
        return name
    return local_
