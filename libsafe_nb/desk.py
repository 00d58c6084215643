"""
What the runner does for the kernel that knocks at the door: hand out the keys once, note effects, write to the job.
"""

from __future__ import annotations

import hmac
import json
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from libsafe_nb.errors import UsageError
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.redact.values import redact_value

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection
    from libsafe_nb.shapes import Descriptor


class Desk:
    """
    Answers one run's door. Thread-safe.

    Attributes
    ----------
    events
        What the function read, wrote and said, in order; also in `events.jsonl`, so a killed runner leaves it.
    verdict
        None until the function called `job_end`; the first call wins, save that False lowers it.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        run: str,
        job: str,
        api: Mapping[str, Any],
        log: Path,
        secrets: SecretSet,
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.verdict: bool | None = None
        self.nonce = token_urlsafe(24)
        self._connection, self._run, self._job, self._api, self._secrets = (
            connection,
            run,
            job,
            dict(api),
            secrets,
        )
        self._nonce_spent = False
        self._lock = threading.Lock()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        os.close(self._log)

    def answer(self, do: str, fields: dict[str, Any]) -> Any:
        """One request from the door; see the methods below for the words it knows."""
        doing: dict[str, Callable[..., Any]] = {
            "keys": self._keys,
            "event": self._event,
            "verdict": self._verdict,
            "log": self._message,
            "hash": self._hash,
            "metadata": self._metadata,
            "end": self._verdict,
        }
        if do not in doing:
            raise UsageError(f"the door knows no {do!r}")
        return doing[do](**fields)

    def _keys(self, *, nonce: str) -> dict[str, Any]:
        with self._lock:
            if self._nonce_spent or not hmac.compare_digest(nonce.encode(), self.nonce.encode()):
                raise UsageError("the keys of a run are handed out once")
            self._nonce_spent = True
        s3 = self._connection.s3
        fields = ("endpoint", "bucket", "access_key", "secret_key", "region")
        return {
            "api": self._api,
            "s3": {name: getattr(s3, name) for name in fields},
            "run": self._run,
            "job": self._job,
        }

    def _event(self, *, event: dict[str, Any]) -> None:
        clean, _ = redact_value(event, self._secrets)
        clean = dict(clean)
        clean["at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            self.events.append(clean)
            os.write(self._log, json.dumps(clean).encode() + b"\n")

    def _verdict(self, *, ok: bool) -> bool:
        with self._lock:
            self.verdict = bool(ok) if self.verdict is None else self.verdict and bool(ok)
            os.write(self._log, json.dumps({"kind": "verdict", "ok": self.verdict}).encode() + b"\n")
            return self.verdict

    def _message(self, *, message: str, type: str = "INFO", file_id: str | None = None) -> None:
        self._connection.client.message(
            self._job, self._secrets.clean(message), type=type, file=file_id or None
        )
        self._event(event={"kind": "message", "type": type, "message": message, "file_id": file_id})

    def _hash(self, *, file_id: str, algorithm: str, value: str) -> None:
        self._connection.client.set_hash(file_id, algorithm, value)
        self._event(event={"kind": "hash", "file_id": file_id, "algorithm": algorithm, "value": value})

    def _metadata(self, *, file_id: str, metadata: list[Descriptor]) -> None:
        self._connection.client.set_metadata(file_id, metadata)
        codes = [str(each.get("iecode")) for each in metadata]
        self._event(event={"kind": "metadata", "target": "file", "id": file_id, "iecodes": codes})
