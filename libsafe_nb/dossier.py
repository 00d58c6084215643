"""
All files of a run's evidence, from its record and what belongs to it. Pure: no disk, no network.

    record.json · executed.ipynb · environment.json · messages.jsonl      what happened
    premis.xml · ro-crate-metadata.json · README.md · report.html         the same, for others to read
    SHA256SUMS                                                            the digests of all of them, last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from libsafe_nb import crate, evidence, premis, record, report


def complete(
    body: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    node: Mapping[str, Any] | None,
    messages: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any] | None,
) -> dict[str, bytes]:
    """
    The evidence in the order in which it is stored.

    Parameters
    ----------
    body
        The record.
    files
        What is there already: the notebook, messages, environment.
    node, messages, environment
        The same, parsed; None where the run left none, as when its machine was lost.
    """
    made = {
        **files,
        "record.json": record.canonical(body),
        premis.FILE: premis.build(body),
        report.FILE: report.build(body, node, messages, environment),
        crate.README: crate.readme(body),
    }
    # Of all files but the sums, so it comes after them.
    made[crate.FILE] = crate.build(body, made)
    return {**made, evidence.SUMS: evidence.sums(made)}


def words(name: str, data: bytes) -> Any:
    """
    What a reader finds in a file of the evidence, for the search for keys: of XML each text, without its escapes.

    An author's compressed bytes in an error's message, whole in the record, are damaged as long as an `&` in them reads
    `&amp;`: it could not be told what is in them, and nothing of the run would be stored.
    """
    if name != premis.FILE:
        return data
    return {str(place): text for place, text in enumerate(premis.texts(data))}
