"""
The forms in which authors write metadata, as one form: a list of descriptors.

Public code shows a JSON string with an outer `metadata` key, and a JSON string of a bare list, and an author who
needed seven commits to find out which (platform.md 9). All of them are taken, and dictionaries and lists as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from libsafe_nb.errors import UsageError
from libsafe_nb.shapes import Descriptor

ACTIONS = ("replace", "add", "remove")

_LENGTHS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[0-9a-fA-F]+")


def descriptors(body: Any) -> list[Descriptor]:
    """
    Descriptors from `{"metadata": […]}`, `[…]`, one `{"iecode", "value"}`, `{IECODE: value}`, or JSON text of these.

    Raises
    ------
    UsageError
        It is none of them; the message names the place.
    """
    if isinstance(body, (str, bytes)):
        try:
            body = json.loads(body)
        except ValueError as exc:
            raise UsageError(f"metadata: expected JSON text, found {exc}") from exc
    if isinstance(body, Mapping):
        if set(body) == {"metadata"}:
            body = body["metadata"]
        elif "iecode" in body:
            body = [body]
        else:
            body = [{"iecode": name, "value": value} for name, value in body.items()]
    if isinstance(body, Mapping):
        return descriptors(body)
    if not isinstance(body, Sequence) or isinstance(body, (str, bytes)):
        raise UsageError(f"metadata: expected a list of descriptors, found {type(body).__name__}")
    return [_descriptor(each, f"metadata[{index}]") for index, each in enumerate(body)]


def flat(metadata: Sequence[Descriptor] | None) -> dict[str, Any] | None:
    """`{IECODE: value}`, a list where there are several values; None for None."""
    if metadata is None:
        return None
    found: dict[str, Any] = {}
    for each in metadata:
        value = each.get("value")
        found[each["iecode"]] = value[0] if isinstance(value, list) and len(value) == 1 else value
    return found


def hash_value(algorithm: str, value: str) -> tuple[str, str]:
    """
    Algorithm and digest as they are stored: lower case.

    Raises
    ------
    UsageError
        The digest is not hex, or has not the length of its algorithm.
    """
    name, digest = str(algorithm).lower().replace("-", ""), str(value).strip()
    wanted = _LENGTHS.get(name)
    if not name or not _HEX.fullmatch(digest) or (wanted is not None and len(digest) != wanted):
        length = f"{wanted} hex digits" if wanted else "hex digits"
        raise UsageError(f"{algorithm} digest: expected {length}, found {digest[:80]!r}")
    return name, digest.lower()


def _descriptor(given: Any, place: str) -> Descriptor:
    if not isinstance(given, Mapping):
        raise UsageError(f"{place}: expected an object with iecode and value, found {type(given).__name__}")
    iecode = given.get("iecode")
    if not isinstance(iecode, str) or not iecode:
        raise UsageError(f"{place}.iecode: expected the descriptor's IECODE, found {iecode!r}")
    action = given.get("action")
    if action is not None and action not in ACTIONS:
        raise UsageError(f"{place}.action: expected one of {', '.join(ACTIONS)}, found {action!r}")
    if "value" not in given:
        raise UsageError(f"{place}.value: is missing")
    found: Descriptor = {"iecode": iecode, "value": given["value"]}
    if action is not None:
        found["action"] = action
    return found
