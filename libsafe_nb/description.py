"""
How a function notebook describes itself: `metadata.libsafe` of the notebook file. Pure.

    title, description, version, author, license     text; the licence as an SPDX identifier or a URL
    effects                                          what it does to a file: PREMIS event types, as codes
    requirements                                     optional: the packages that it imports, as PEP 508 has them

A notebook without them runs all the same; its record then has less to say. Of one that has some of them `check` says
which are missing, and which are not as they should be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TEXTS = ("title", "description", "version", "author", "license")

EVENT_TYPES = {
    "acc": "accession",
    "app": "appraisal",
    "cap": "capture",
    "com": "compression",
    "cop": "compiling",
    "cre": "creation",
    "dea": "deaccession",
    "dec": "decompression",
    "del": "deletion",
    "der": "decryption",
    "dig": "digital signature validation",
    "dis": "dissemination",
    "dsg": "digital signature generation",
    "dsp": "displaying",
    "enc": "encryption",
    "exe": "execution",
    "exp": "exporting",
    "ext": "extraction",
    "ffa": "forensic feature analysis",
    "fil": "filename change",
    "fix": "fixity check",
    "for": "format identification",
    "ima": "imaging",
    "ine": "ingestion end",
    "ing": "ingestion",
    "ins": "ingestion start",
    "int": "interpreting",
    "ipc": "information package creation",
    "ipm": "information package merging",
    "ips": "information package splitting",
    "mee": "metadata extraction",
    "mem": "metadata modification",
    "mes": "message digest calculation",
    "mig": "migration",
    "mod": "modification",
    "nor": "normalization",
    "pac": "packing",
    "poa": "policy assignment",
    "qua": "quarantine",
    "red": "redaction",
    "rep": "replication",
    "tra": "transfer",
    "unp": "unpacking",
    "unq": "unquarantine",
    "val": "validation",
    "vir": "virus check",
}
"""
Codes and labels of <http://id.loc.gov/vocabulary/preservation/eventType>. Left out are codes whose label was not seen
in the original.
"""


def described(metadata: Mapping[str, Any], stem: str) -> dict[str, Any]:
    """What the record says of the function: texts or None, the title never empty, and the effects that are known."""
    found: dict[str, Any] = {name: str(metadata[name]) if metadata.get(name) else None for name in TEXTS}
    found["title"] = found["title"] or stem
    given = metadata.get("effects")
    effects = [str(each) for each in given] if isinstance(given, (list, tuple)) else []
    found["effects"] = [each for each in effects if each in EVENT_TYPES]
    return found


def problems(metadata: Any) -> list[str]:
    """
    What is missing from `metadata.libsafe` or wrong in it, a sentence each; none where all is well.

    None either where nothing is described at all: a plain notebook is no worse for it. What was found is told by its kind
    only, as there may be a key in it.
    """
    if metadata is None:
        return []
    if not isinstance(metadata, Mapping):
        return [f"metadata.libsafe: expected an object, found {_kind(metadata)}"]
    needs = _requirement_problems(metadata.get("requirements"))
    if not any(name in metadata for name in (*TEXTS, "effects")):
        return needs
    found = needs + [
        f"metadata.libsafe.{name}: expected a text, found {_kind(metadata.get(name))}"
        for name in TEXTS
        if not (isinstance(metadata.get(name), str) and metadata[name].strip())
    ]
    effects = metadata.get("effects")
    if not isinstance(effects, (list, tuple)):
        return [
            *found,
            f"metadata.libsafe.effects: expected a list of PREMIS event types, found {_kind(effects)}",
        ]
    return found + [
        f"metadata.libsafe.effects, entry {number}: expected the code of a PREMIS event type, such as 'mes' (message digest"
        " calculation), found another text or none"
        for number, each in enumerate(effects, 1)
        if not (isinstance(each, str) and each in EVENT_TYPES)
    ]


def required(metadata: Mapping[str, Any]) -> frozenset[str]:
    """Names of the packages in `requirements`, canonical; what is none is left out, and `problems` tells it."""
    given = metadata.get("requirements")
    names = (_name(each) for each in given) if isinstance(given, (list, tuple)) else ()
    return frozenset(name for name in names if name)


def canonical(name: str) -> str:
    """A package's name as others can be compared with it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirement_problems(given: Any) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, (list, tuple)):
        return [
            f"metadata.libsafe.requirements: expected a list such as ['pillow>=10'], found {_kind(given)}"
        ]
    return [
        f"metadata.libsafe.requirements, entry {number}: expected a package as PEP 508 has it, such as 'pillow>=10',"
        " found something else"
        for number, each in enumerate(given, 1)
        if _name(each) is None
    ]


def _name(requirement: Any) -> str | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return canonical(Requirement(requirement).name) if isinstance(requirement, str) else None
    except InvalidRequirement:
        return None


def _kind(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return "an empty one"
    kinds = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "something else")
