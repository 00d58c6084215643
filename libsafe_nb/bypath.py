"""Functions that are called by their path: found, read, and published once in a run."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import record
from libsafe_nb.errors import NotebookError, ObjectNotFound
from libsafe_nb.functions import key_by_path

if TYPE_CHECKING:
    from libsafe_nb.client import Client

Publish = Callable[["Client", str, bytes, str], Mapping[str, Any]]
"""Publishes a function that is called by its path: its key, its bytes and its file's name; answers its `version`."""


class ByPath:
    """
    Thread-safe.

    Parameters
    ----------
    read
        The bytes of a container's object; None where no address can be read.
    beside
        The folder, or the address, in which a path is looked for that the caller does not find; None for none.
    """

    def __init__(
        self, publish: Publish | None, read: Callable[[str, str], bytes] | None, beside: str | None
    ) -> None:
        self._publish, self._read, self._beside = publish, read, beside
        self._versions: dict[tuple[str, str], int] = {}
        """By key and digest."""
        self._publishing = threading.Lock()

    def publish(self, client: Client, code: Mapping[str, str]) -> tuple[str, int]:
        """
        Key and version.

        Parameters
        ----------
        code
            The file's `name`, and its bytes as `data` (base64) or where they are found, as `address` (`libsafe://…`) or `path`.

        Raises
        ------
        NotebookError
            There is no such notebook, or it cannot be read.
        """
        key, data = key_by_path(code["name"]), self._code(code)
        sha256 = record.digest(data)
        with self._publishing:
            if (key, sha256) not in self._versions:
                assert self._publish is not None
                self._versions[key, sha256] = int(self._publish(client, key, data, code["name"])["version"])
            return key, self._versions[key, sha256]

    def _code(self, code: Mapping[str, str]) -> bytes:
        if "data" in code:
            return base64.b64decode(code["data"])
        address = code.get("address")
        if address is None:
            if self._beside is None:
                raise NotebookError(f"{code['path']}: there is no such notebook", notebook=code["path"])
            if not self._beside.startswith("libsafe://"):
                try:
                    return (Path(self._beside) / code["path"]).read_bytes()
                except OSError as exc:
                    raise NotebookError(
                        f"{code['path']}: cannot be read, neither from the working directory nor from where the caller's"
                        f" notebook lies ({exc.strerror or exc})",
                        notebook=code["path"],
                    ) from exc
            address = f"{self._beside}/{code['path'].removeprefix('./')}"
        container, _, path = address.removeprefix("libsafe://").partition("/")
        if not (container.isascii() and container.isdecimal() and path):
            raise NotebookError(
                f"{address}: expected libsafe://CONTAINER/path of a notebook", notebook=address
            )
        assert self._read is not None
        try:
            return self._read(container, path)
        except ObjectNotFound as exc:
            raise NotebookError(f"{address}: there is no such notebook", notebook=address) from exc
