"""The body of DeleteObjects: a list of keys in XML, of which each must be one's own."""

from __future__ import annotations

from xml.etree import ElementTree

from libsafe_nb.local.gate import PLAIN_VALUES, Refused, check_key

MAX_BODY = 2 * 1024 * 1024
"""It is read whole to see every key; 1,000 of the longest keys fit."""


def check(body: bytes, containers: frozenset[str]) -> list[str]:
    """
    The keys that a DeleteObjects body names; raise `Refused` if one is outside the containers, or it is not plain XML.

    Declarations and processing instructions are refused before parsing, so there are no entities to expand, and a
    key with elements inside it, which parsers join in different ways.
    """
    try:
        text = body.decode("utf-8")
        if "<!" in text or "<?" in text[1:] or "\x00" in text:
            raise Refused(400, "MalformedXML", "the list of keys must be plain XML without declarations")
        root = ElementTree.fromstring(text)  # noqa: S314 - declarations are refused above
    except (ElementTree.ParseError, ValueError) as exc:
        raise Refused(400, "MalformedXML", "the list of keys is not XML in UTF-8") from exc
    keys = [_key_to_delete(entry) for entry in root if _local(entry.tag) == "Object"]
    if _local(root.tag) != "Delete" or not keys:
        raise Refused(400, "MalformedXML", "expected a Delete element with at least one Object")
    for key in keys:
        check_key(key, containers)
    return keys


def _key_to_delete(entry: ElementTree.Element) -> str:
    parts = [(_local(part.tag), part) for part in entry]
    names = [name for name, _ in parts]
    if names.count("Key") != 1 or names.count("VersionId") > 1 or any(len(part) for _, part in parts):
        raise Refused(
            400, "MalformedXML", "each Object has one Key, at most one VersionId, and plain text in them"
        )
    values = {name: part.text or "" for name, part in parts}
    version = values.get("VersionId")
    if version and not PLAIN_VALUES["versionId"].fullmatch(version):
        raise Refused(400, "InvalidArgument", "VersionId is malformed")
    return values["Key"]


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
