"""
What a cell of any language has the runner do, through `libsafe-nb job`: here, with the run's keys, which stay here.
Calls of other functions (`children.py`) go the same way.

Each is the stand-in's own call (`compat/`), so that the record tells of it as of a Python function's: files read and
written, hashes, metadata; what is written is searched for keys, and a replay holds it back.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb.bypath import Publish
from libsafe_nb.children import Children
from libsafe_nb.errors import NotFound, UsageError

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.connection import Connection
    from libsafe_nb.making import Past
    from libsafe_nb.models import Replay
    from libsafe_nb.redact.matching import SecretSet
    from libsafe_nb.shapes import Descriptor
    from libsafe_nb.storage import Storage

BLOCK = 8 * 1024 * 1024

Begun = Callable[["Callable[[], Client]", "Storage", Callable[[dict[str, Any]], None]], "Past"]
"""Makes what knows of earlier runs, once the run's session is there."""


class Errands:
    """
    The errands of one run. Thread-safe. Each may raise what the platform or the storage raises.

    Parameters
    ----------
    payload
        As the notebook gets it: without keys.
    answer
        The desk's: where each effect is told.
    publish, beside
        For functions that are called by their path (`Children`).
    past
        Given the client, the storage and where events go, it knows what earlier runs have done.

    Attributes
    ----------
    calls
        Those of other functions.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        run: str,
        job: str,
        payload: Mapping[str, Any],
        files: Iterable[Mapping[str, Any]],
        secrets: SecretSet,
        replay: Replay | None,
        answer: Callable[[str, dict[str, Any]], Any],
        publish: Publish | None = None,
        beside: str | None = None,
        past: Begun | None = None,
    ) -> None:
        from libsafe_nb.compat.session import Attached, Session

        assert connection.settings.url is not None
        assert connection.settings.key_user is not None
        attached = Attached(
            run=run,
            job=job,
            door=_Within(answer),
            socket_path="",
            pins=replay.pins if replay else None,
            stubbed=replay is not None and replay.stub,
            shared=True,
        )
        self._session = Session(
            connection.settings.url,
            connection.settings.key_user,
            connection.s3,
            attached,
            secrets=secrets,
            own=True,
        )
        self._payload, self._job = payload, job
        self._files = [
            {"id": str(each["id"]), "path": each["fullpath"], "size": each.get("size")} for each in files
        ]
        self.calls = Children(
            lambda: self._session.client,
            run=run,
            container=self._container,
            secrets=secrets,
            replay=replay,
            tell=attached.tell,
            read=lambda where, path: self._session.storage.get(where, path),
            publish=publish,
            beside=beside,
            past=None
            if past is None
            else past(lambda: self._session.client, self._session.storage, attached.tell),
        )
        self.known: dict[str, Callable[..., Any]] = {
            "payload": self._show_payload,
            "files": self._show_files,
            "get": self._get,
            "put": self._put,
            "hash": self._hash,
            "metadata": self._metadata,
            "progress": self._progress,
            **self.calls.known,
        }

    def close(self) -> None:
        """Close the connections, and end what still waits for an answer."""
        self.calls.close()
        self._session.close()

    def _show_payload(self) -> Mapping[str, Any]:
        return self._payload

    def _show_files(self) -> list[dict[str, Any]]:
        return self._files

    def _get(self, *, file_id: str, target: str) -> dict[str, Any]:
        """Write a file of the container to `target`, which appears when it is whole."""
        from libsafe_nb.compat.standin.s3_file import get_stream
        from libsafe_nb.compat.standin.s3_storage import Storage

        stream = get_stream(Storage(self._session, self._container), file_id)
        if stream is None:
            raise NotFound(f"file {file_id}: cannot be read: it is off-line, deleted, missing or a folder")
        sha256, size = hashlib.sha256(), 0
        place = Path(target)
        part = place.with_name(f".libsafe-{uuid.uuid4().hex}.part")
        try:
            with stream, part.open("xb") as file:
                while block := stream.read(BLOCK):
                    sha256.update(block)
                    size += file.write(block)
                self._session.storage.check_digest(stream, sha256.hexdigest())
            part.replace(place)
        except OSError as exc:
            raise UsageError(f"{target}: cannot be written ({exc.strerror or exc})") from exc
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return {"size": size, "sha256": sha256.hexdigest()}

    def _put(self, *, source: str, path: str) -> dict[str, Any]:
        """Store a file of this machine in the run's container; equal bytes are not stored again."""
        try:
            stored = self._session.outbox.write(self._container, path, Path(source), None)
        except OSError as exc:
            raise UsageError(f"{source}: cannot be read ({exc.strerror or exc})") from exc
        names = ("container", "path", "size", "sha256", "version_id", "created")
        return {name: getattr(stored, name) for name in names}

    def _hash(self, *, file_id: str, algorithm: str, value: str) -> None:
        from libsafe_nb.compat import forms

        self._session.outbox.hash(file_id, *forms.hash_value(algorithm, value))

    def _metadata(self, *, file_id: str, metadata: list[Descriptor]) -> None:
        self._session.outbox.metadata("file", file_id, metadata)

    def _progress(self, *, progress: float) -> None:
        self._session.outbox.progress(self._job, progress)

    @property
    def _container(self) -> str:
        return str(self._payload["function_data"]["container"]["id"])


class _Within:
    """Speaks to the desk without a socket."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any]) -> None:
        self._answer = answer

    def call(self, do: str, **fields: Any) -> Any:
        return self._answer(do, fields)

    def tell(self, do: str, **fields: Any) -> None:
        self._answer(do, fields)

    def post(self, do: str, **fields: Any) -> None:
        self._answer(do, fields)

    def close(self) -> None:
        """There is nothing to close."""
