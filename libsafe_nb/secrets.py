"""
One secret: a name and a value that shows itself only when told to.

    payload ── redact_payload ──▶ the same with {"$secret": "key_user"}  +  [Secret("key_user", …)]
                                        │ papermill sees only this                │ the kernel fetches these
                                        └────────────── fill_payload ◀────────────┘

What looks for the values in outputs and files is in `libsafe_nb.redact`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from libsafe_nb.errors import PayloadError, SettingsError

API_KEYS = ("key_user", "key_root")

MIN_LENGTH = 8
MIN_DISTINCT = 5
MIN_DIGITS = 12
"""Digits alone hold little: eight of them are a date, and dates stand in every output."""

STRONG_LENGTH = 16
"""From here on every form is looked for; a shorter value is looked for as it stands, escaped, in base64 and in hex."""


class Secret:
    """
    A named value that no `print`, f-string, log line, traceback or pickle gives away.

    It is not a `str`: `"Bearer " + secret` fails, rather than sending a mask over the wire. Where the value is
    needed, `reveal` is written out and can be searched for.

    Raises
    ------
    SettingsError
        The value is too short or too plain to be told from ordinary text; see `weakness`.
    """

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: str) -> None:
        found = weakness(value)
        if found:
            raise SettingsError(f"{name}: {found}", name=name)
        self.name = name
        self._value = value

    def reveal(self) -> str:
        """The value itself."""
        return self._value

    @property
    def strong(self) -> bool:
        """Whether it is long enough to be looked for in every form without false alarms."""
        return len(self._value) >= STRONG_LENGTH

    @property
    def placeholder(self) -> dict[str, str]:
        """What stands in its place within a payload."""
        return {"$secret": self.name}

    @property
    def mark(self) -> str:
        """What stands in its place within text."""
        return f"[redacted:{self.name}]"

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __str__(self) -> str:
        return self.mark

    def __format__(self, spec: str) -> str:
        return format(self.mark, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        same = hmac.compare_digest(
            self._value.encode("utf-8", "surrogatepass"), other._value.encode("utf-8", "surrogatepass")
        )
        return same and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        # A pickle is a file or a message to another machine: neither may hold a key.
        raise TypeError(f"{self!r} cannot be pickled: a worker takes its keys from its own settings")


def weakness(value: str) -> str | None:
    """
    Why a value cannot be kept out of the record, as the second half of a sentence; None when it can.

    A value that also occurs by chance in ordinary outputs would blacken them, so it is refused instead.
    """
    if len(value) < MIN_LENGTH:
        return f"expected a key of at least {MIN_LENGTH} characters, found {len(value)}"
    distinct = len(set(value))
    if distinct < MIN_DISTINCT:
        return f"expected a key of at least {MIN_DISTINCT} different characters, found {distinct}"
    if value.isdigit() and len(value) < MIN_DIGITS:
        return f"expected a key of digits only to have at least {MIN_DIGITS} of them, found {len(value)}"
    return None


def redact_payload(
    data: Mapping[str, Any], *, names: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Secret]]:
    """
    A copy of a payload with its secrets replaced by `{"$secret": name}`, and the secrets.

    Replaced are `api.key_user`, `api.key_root`, the `function_params` called in `names`, and every other
    string of the payload that equals one of those values. Empty values and placeholders are left as they are.

    Raises
    ------
    PayloadError
        A secret is not a string, or is too weak to be looked for; `.path` names the place.
    """
    found = [
        *_secrets_at(data, "api", API_KEYS),
        *_secrets_at(data, "function_params", names),
    ]
    # Where two names share a value, the first one stands for it elsewhere; each keeps its own place.
    clean = _replaced(data, {secret.reveal(): secret for _, secret in reversed(found)})
    for part, secret in found:
        clean[part][secret.name] = secret.placeholder
    return clean, [secret for _, secret in found]


def fill_payload(clean: Any, values: Mapping[str, str]) -> Any:
    """
    The inverse of `redact_payload`: each `{"$secret": name}` replaced by `values[name]`.

    A placeholder whose name is not in `values` stays.
    """
    if _is_placeholder(clean):
        return values.get(clean["$secret"], clean)
    if isinstance(clean, dict):
        return {key: fill_payload(value, values) for key, value in clean.items()}
    if isinstance(clean, list):
        return [fill_payload(value, values) for value in clean]
    return clean


def _secrets_at(data: Mapping[str, Any], part: str, names: Iterable[str]) -> list[tuple[str, Secret]]:
    values = data.get(part)
    if not isinstance(values, Mapping):
        return []
    found = []
    for name in names:
        value, path = values.get(name), f"{part}.{name}"
        if value is None or value == "" or _is_placeholder(value):
            continue
        if not isinstance(value, str):
            raise PayloadError(f"{path}: expected a string, found {type(value).__name__}", path=path)
        weak = weakness(value)
        if weak:
            raise PayloadError(f"{path}: {weak}", path=path)
        found.append((part, Secret(name, value)))
    return found


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"$secret"} and isinstance(value["$secret"], str)


def _replaced(value: Any, secrets: Mapping[str, Secret]) -> Any:
    if isinstance(value, str):
        return secrets[value].placeholder if value in secrets else value
    if isinstance(value, Mapping):
        return {key: _replaced(each, secrets) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, secrets) for each in value]
    return value
