"""
One secret: a name and a value that shows itself only when told to.

What looks for the values in outputs and files is in `libsafe_nb.redact`.
"""

from __future__ import annotations

import hmac
from typing import Any, NoReturn

from libsafe_nb.errors import SettingsError

SAMPLE_KEY = "1234567890abcdefghijklmnopqrstuvwxyz"
"""The key in the vendor's documented sample payload (page "Jupyter Notebooks"): a placeholder, never a key."""

PLACEHOLDER = "$secret"
"""The one name of the object that stands in a payload for a value: `{"$secret": NAME}`."""

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
        return {PLACEHOLDER: self.name}

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
