"""The entities of a crate's `@graph`, and the forms that several kinds of them share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from libsafe_nb.crate.words import as_text

Entity = dict[str, Any]


class Graph:
    """Entities of a `@graph`, by `@id`, in the order in which they were first named."""

    def __init__(self) -> None:
        self.entities: dict[str, Entity] = {}

    def add(self, id: str, type: str | list[str], **properties: Any) -> Entity:
        """
        A reference to the entity. What is None or an empty list is not written, and one value stands without a list.

        The first description of an `@id` stays, as where a file was read and then changed.
        """
        told = {name: single(value) for name, value in properties.items()}
        known = {name: value for name, value in told.items() if value is not None}
        self.entities.setdefault(id, {"@id": id, "@type": type, **known})
        return {"@id": id}


def file(graph: Graph, entry: Mapping[str, Any], container: str, description: str, **more: Any) -> Entity:
    """
    A file of the platform, as a contextual entity with an absolute `@id`; `container` is where it lies if it does not say.

    It is no File, which RO-Crate 1.1 wants in the folder or to be had by HTTP, and with its media type: of an
    input the record does not tell it.
    """
    size = entry.get("size")
    return graph.add(
        _address(entry, container),
        ["CreativeWork", "DigitalDocument"],
        name=entry.get("path") or f"file {as_text(entry.get('id'))}",
        description=description,
        identifier=entry.get("id"),
        version=entry.get("version_id"),
        contentSize=None if size is None else str(size),
        sha256=entry.get("sha256"),
        **more,
    )


def _address(entry: Mapping[str, Any], container: str) -> str:
    """Without a version the digest tells two contents of one path apart, and without a path the file's id does."""
    where = quote(as_text(entry.get("container") or container), safe="")
    path = quote(as_text(entry.get("path")).removeprefix("/"))
    told = {"versionId": entry.get("version_id"), "sha256": entry.get("sha256")}
    known = [f"{name}={quote(as_text(value), safe='')}" for name, value in told.items() if value][:1]
    if not path:
        known.insert(0, f"file={quote(as_text(entry.get('id')), safe='')}")
    return f"libsafe://{where}/{path}" + ("?" + "&".join(known) if known else "")


def single(value: Any) -> Any:
    """roc-validator wants one value without a list; nothing is None."""
    if isinstance(value, list):
        return value[0] if len(value) == 1 else value or None
    return value


def web(value: Any) -> str | None:
    """A web address, or None."""
    text = as_text(value)
    return text if re.fullmatch(r"https?://[^\s<>\"{}|\\^`]+", text) else None


def named(sha256: str) -> str | None:
    """
    `nih:sha-256;…`, the name of bytes by their digest (RFC 6920, 7).

    With hexadecimal digits as in the record: what the scan for secrets has let through there is not scanned anew.
    """
    return f"nih:sha-256;{sha256}" if re.fullmatch(r"[0-9a-f]{64}", sha256) else None


def evidence(graph: Graph, address: str) -> Entity | None:
    """The folder of another run's evidence: a contextual entity, as it is no part of this crate."""
    if not address:
        return None
    return graph.add(
        quote(address, safe=":/"),
        "CreativeWork",
        name="Evidence of a run",
        description="The folder in which the evidence of the called function's run lies.",
    )
