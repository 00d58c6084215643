"""
Where `serve` takes the bytes of a function from: a file, as it was at the start, or the platform, as it is at each call.

Of a published function every call asks which version is the current one, so that publishing, going back, pausing and
disabling act at once; its bytes are fetched once for each version and compared with their digest.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from libsafe_nb import connection, plan
from libsafe_nb.client import Client
from libsafe_nb.errors import Conflict, NotebookError, NotFound, PayloadError, PlatformError, UsageError
from libsafe_nb.functions import Functions
from libsafe_nb.models import Published
from libsafe_nb.payloads import Payload
from libsafe_nb.settings import Settings


@dataclass(frozen=True)
class Order:
    """
    What one call runs.

    Attributes
    ----------
    name, data
        Of the function's file.
    settings
        The platform to run on; None: as for any run, the payload's or the configured one.
    """

    name: str
    data: bytes
    payload: Payload
    timeout: float | None = None
    published: Published | None = None
    settings: Settings | None = None


class Source(Protocol):
    """One function that is served."""

    def order(self, payload: Payload) -> Order:
        """
        What to run for a payload, now. Blocks.

        Raises
        ------
        LibsafeError
            Nothing is to be run: `NotFound`, `Conflict` (disabled), another `PlatformError` (paused, away), `UsageError`.
        """


class FromFile:
    """
    Raises
    ------
    NotebookError
        It cannot be read, is no function, or there is no kernel for it.
    """

    def __init__(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise NotebookError(
                f"{path}: cannot be read ({exc.strerror or exc})", notebook=str(path)
            ) from exc
        plan.parse(data, str(path))
        self._name, self._data = path.name, data

    def order(self, payload: Payload) -> Order:
        return Order(self._name, self._data, payload)


class FromPlatform:
    """
    A function that the platform of the settings has published.

    Raises
    ------
    UsageError
        The platform has no such function, or its current version cannot be run here.
    PlatformError
        The platform could not be asked.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._held: tuple[str, bytes] = ("", b"")
        try:
            with self._asked() as (_, functions, about):
                plan.parse(self._bytes(functions, about), about["name"])
        except NotFound as exc:
            raise UsageError(f"{key}: the platform has no function of this key; publish it first") from exc

    def order(self, payload: Payload) -> Order:
        with self._asked() as (home, functions, about):
            if not about["enabled"]:
                raise Conflict(f"function {self.key} is disabled")
            if about["paused"]:
                raise PlatformError(f"function {self.key} is paused")
            data = self._bytes(functions, about)
        here = connection.chosen(payload)
        if here.url != home.url:
            raise PayloadError(
                f"api.url: expected {home.url}, where {self.key} is published, got {here.url}", path="api.url"
            )
        return Order(
            about["name"],
            data,
            _named(payload, about),
            about["timeout"],
            Published(about["version"], about["sha256"]),
            here,
        )

    @contextlib.contextmanager
    def _asked(self) -> Iterator[tuple[Settings, Functions, dict[str, Any]]]:
        """The platform, its calls, and the function as it is there now."""
        home = connection.chosen()
        # A caller waits: not for a minute.
        with contextlib.closing(Client.of(home, budget=connection.KNOCK)) as client:
            functions = Functions(client)
            yield home, functions, functions.get(self.key)

    def _bytes(self, functions: Functions, about: Mapping[str, Any]) -> bytes:
        sha256, data = self._held
        if sha256 != about["sha256"]:
            try:
                data = functions.content(self.key, about["version"])
            except Conflict as exc:
                # The stored bytes are not those that were published; a disabled function is another thing.
                raise PlatformError(str(exc)) from exc
            found = hashlib.sha256(data).hexdigest()
            if found != about["sha256"]:
                raise PlatformError(
                    f"function {self.key}, version {about['version']}: expected bytes with the SHA-256"
                    f" {about['sha256']}, got {found}"
                )
            self._held = found, data
        return data


def _named(payload: Payload, about: dict[str, Any]) -> Payload:
    """The payload, with the function's id and key where it names none."""
    given = payload.function_id, payload.function_key
    return payload.replace(
        function_id=about["id"] if given[0] == "0" else given[0], function_key=given[1] or about["key"]
    )


def shortest(*timeouts: float | None) -> float | None:
    return min((each for each in timeouts if each is not None), default=None)
