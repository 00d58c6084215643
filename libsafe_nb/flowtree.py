"""
A workflow's graph from where its evidence lies: as it ran, with the calls of its calls if asked for.

The records are believed here; `verify --deep` is what checks them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from libsafe_nb import archive as archives
from libsafe_nb import evidence, flow, flowsource, notebook, record
from libsafe_nb.archive import ALL, Archive, Container, Folder
from libsafe_nb.errors import LibsafeError, ObjectNotFound, UsageError
from libsafe_nb.flow import Node
from libsafe_nb.plan import DEFAULT_CONTAINER
from libsafe_nb.recordcheck import parsed

if TYPE_CHECKING:
    from libsafe_nb.settings import Settings

DEPTH, NODES = 64, 20_000
"""Calls of calls that are followed, and how many runs are told in all."""


def graph(
    place: str, *, container: str | None = None, deep: bool = False, settings: Settings | None = None
) -> tuple[list[Node], Archive | None, str]:
    """
    The nodes of a workflow, the archive that they come from, and a sentence about where from.

    Parameters
    ----------
    place
        The folder of a run's evidence, on this disk or `libsafe://CONTAINER/provenance/…`; or a notebook, here or in a
        container, or a function's key: the latest evidence of that function is looked for, and if there is none the notebook's
        source is read, and there is no archive.
    container
        Where that is looked for; by default that of the notebook's address, else the local platform's default one.

    Raises
    ------
    UsageError
        There is no such evidence, notebook or function, or several runs' evidence was named.
    """
    if _is_evidence(place):
        found = archives.at(place, settings=settings)
        return of_evidence(found, deep=deep), found, f"as it ran, told by {found.place}"
    name, source, home = _function(place, settings)
    where = container or home or DEFAULT_CONTAINER
    latest = None
    try:
        latest = _latest(where, name, settings)
    except LibsafeError as exc:
        if source is None:
            raise
        said = f"no platform could be asked for evidence ({exc})"
    else:
        said = f"no evidence of it in container {where}"
    if latest is not None:
        return (
            of_evidence(latest, deep=deep),
            latest,
            f"as it ran last, told by {latest.place}{_changed(latest, source, place)}",
        )
    if source is None:
        raise UsageError(
            f"{place}: expected evidence, a notebook or a function's key, found no evidence in container {where}"
        )
    return flowsource.of_notebook(source, place), None, f"not run: {said}; this is what its source tells"


def of_evidence(archive: Archive, *, deep: bool = False) -> list[Node]:
    """
    The nodes of the one run whose evidence was asked for.

    Raises
    ------
    UsageError
        There is none, or are several.
    """
    folder = archives.one(archive)
    body = archives.record(archive)
    home = str(record.section(body, "container").get("id"))
    nodes = flow.of_record(
        body, address=f"libsafe://{home}/{folder or archive.start}" if folder else archive.place
    )
    if deep:
        _descend(archive, body, nodes, 1, (nodes[0].evidence,), set())
    return nodes


def link_from(archive: Archive | None, target: Path) -> Callable[[Node], str | None]:
    """From a picture in or around a local copy to a run's report, which then moves with it; None where there is none."""

    def link(node: Node) -> str | None:
        place = evidence.place_of(node.evidence)
        if not isinstance(archive, Folder) or place is None:
            return None
        report, home = archive.path(f"{place[1]}report.html"), target.resolve().parent
        near = home.is_relative_to(archive.path("")) or archive.path("").is_relative_to(home)
        return quote(os.path.relpath(report, home)) if near and report.is_file() else None

    return link


def _descend(
    archive: Archive,
    body: Mapping[str, Any],
    nodes: list[Node],
    start: int,
    above: tuple[str | None, ...],
    seen: set[str],
) -> None:
    """Add the calls of each call that stands in `nodes` from `start` on."""
    home = str(record.section(body, "container").get("id"))
    for index in range(start, len(nodes)):
        node = nodes[index]
        if node.evidence is None or node.stubbed:
            continue
        problem: str | None
        found: tuple[Archive, Mapping[str, Any]] | None
        if node.evidence in above:
            problem, found = "it is called by what it called itself", None
        elif node.evidence in seen:
            problem, found = "told before", None
        else:
            problem, found = _found(archive, home, node.evidence)
        if found is None or len(above) > DEPTH or len(nodes) > NODES:
            nodes[index] = dataclasses.replace(
                node, problem=problem or "its calls are not told: too many, or too deep"
            )
            continue
        seen.add(node.evidence)
        where, called = found
        first = len(nodes)
        nodes += flow.calls_of(called, caller=node.id)
        _descend(where, called, nodes, first, (*above, node.evidence), seen)


def _found(
    archive: Archive, home: str, address: str
) -> tuple[str | None, tuple[Archive, Mapping[str, Any]] | None]:
    """The record at an address; else why there is none."""
    place = archives.beside(archive, home, address)
    if place is None:
        return "its evidence is not at hand", None
    with contextlib.suppress(ObjectNotFound):
        body = parsed(place[0].read(f"{place[1]}record.json"))
        return (None, (place[0], body)) if isinstance(body, dict) else ("its record cannot be read", None)
    return "its evidence is not there", None


def _is_evidence(place: str) -> bool:
    if re.fullmatch(r"libsafe://[0-9]+/?(provenance(/.*)?)?", place, re.ASCII):
        return True
    return Path(place).is_dir()


def _function(place: str, settings: Settings | None) -> tuple[str, bytes | None, str | None]:
    """What a function is called in its evidence, its notebook, and its container if it lies in one."""
    if place.startswith("libsafe://"):
        from libsafe_nb.connection import connect
        from libsafe_nb.papermill_io import split

        home, path = split(place)
        with contextlib.closing(connect(settings=settings)) as connection:
            try:
                return PurePosixPath(path).stem, connection.storage.get(home, path), home
            except ObjectNotFound as exc:
                raise UsageError(f"{place}: there is no such notebook") from exc
    if Path(place).is_file():
        return Path(place).stem, Path(place).read_bytes(), None
    if "/" in place or place.endswith((".ipynb", ".py")):
        raise UsageError(f"{place}: expected evidence or a notebook, found nothing")
    return place, None, None


def _latest(container: str, function: str, settings: Settings | None) -> Container | None:
    """The latest evidence of a function: folders are named after its start (contract 5)."""
    top = f"libsafe://{container}/{ALL}{evidence.slug(function)}/"
    found = archives.at(top, settings=settings)
    assert isinstance(found, Container)
    folders = list(archives.records(found))
    if not folders:
        found.close()
        return None
    return Container(found.storage, container, max(folders), connection=found.connection)


def _changed(latest: Archive, source: bytes | None, name: str) -> str:
    """Whether a notebook's code is another by now."""
    if source is None:
        return ""
    ran = record.section(archives.record(latest), "function").get("code_sha256")
    with contextlib.suppress(LibsafeError):
        return "" if ran == notebook.parse(source, name=name).code_sha256 else "; its code is another now"
    return ""
