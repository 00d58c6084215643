"""
What the runner does for the kernel that knocks at the door: hand out the keys once, note effects, write to the job, run errands.

A message of the function is written down before it is sent, and is not lost when the platform is away: `log` then
returns all the same, and the message is sent, in its place, with the next that gets through, or at the run's end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from libsafe_nb import record
from libsafe_nb.errands import Errands
from libsafe_nb.errors import PlatformError, Unreachable, UsageError
from libsafe_nb.patience import BUDGET
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.redact.values import redact_value
from libsafe_nb.secrets import Secret

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection
    from libsafe_nb.execution import CellState
    from libsafe_nb.models import Replay

READS = 1000
"""Files in one notice of what was read."""

AWAY = 15.0
"""Seconds in which no message is tried after one was not answered: a function that logs much would wait at each."""


class Desk:
    """
    Answers one run's door. Thread-safe.

    Attributes
    ----------
    events
        What the function read, wrote and said, in order; also in `events.jsonl`, so a killed runner leaves it.
    verdict
        None until the function called `job_end`; the first call wins, save that False lowers it.
    fault
        Why `events.jsonl` could not be written (a full disk), or None; `events` has them all the same.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        run: str,
        job: str,
        api: Mapping[str, Any],
        params: Mapping[str, Secret],
        log: Path,
        secrets: SecretSet,
        payload: Mapping[str, Any],
        files: Iterable[Mapping[str, Any]],
        replay: Replay | None = None,
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.verdict: bool | None = None
        self.nonce = token_urlsafe(24)
        # With connections of its own, which end with it: a message that waits in an outage keeps nobody.
        self._connection = connection.within(BUDGET, job=job)
        self._run, self._job, self._api, self._secrets = run, job, dict(api), secrets
        self._params = params
        self._replay = replay
        self._errands = Errands(
            self._connection,
            run=run,
            job=job,
            payload=payload,
            files=files,
            secrets=secrets,
            replay=replay,
            answer=self.answer,
        )
        self.fault: OSError | None = None
        self._nonce_spent = False
        self._lock = threading.Lock()
        self._speaking = threading.Lock()
        self._unsent: list[dict[str, Any]] = []
        self._away_until = 0.0
        self._log = -1
        try:
            self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            self.fault = exc

    def close(self) -> None:
        """Force what was noted to the disk, and take no more; a message that is still being sent counts as unsent."""
        self._connection.close()
        self._errands.close()
        with self._lock:
            log, self._log = self._log, -1
        for last in (os.fsync, os.close):
            with contextlib.suppress(OSError, ValueError):
                last(log)

    def tell_reads(self) -> None:
        """
        Tell the platform which files the function has read, if it wants to know: `file_read` triggers live on it.

        Told at the run's end, once, and only as well as can be: a run that is killed tells none.
        """
        read = [
            str(each["file_id"]) for each in self.events if each.get("kind") == "read" and each.get("bytes")
        ]
        ids = list(dict.fromkeys(read))
        if not ids or self._replay is not None:
            return
        client = self._connection.client
        with contextlib.suppress(PlatformError):
            said = client.health()
            if isinstance(said, dict) and said.get("reads") is True:
                for start in range(0, len(ids), READS):
                    client.tell_reads(ids[start : start + READS])

    def settle_calls(self) -> None:
        """Note what has become of the functions that this one called, at the run's end."""
        self._errands.settle_calls()

    @property
    def unsent(self) -> list[dict[str, Any]]:
        """Messages of the function that have not reached the job, in order; of one being sent nothing is known yet."""
        return list(self._unsent)

    def answer(self, do: str, fields: dict[str, Any]) -> Any:
        """One request from the door; the methods below and `errands.py` have the words it knows."""
        doing: dict[str, Callable[..., Any]] = {
            "keys": self._keys,
            "event": self._event,
            "verdict": self._verdict,
            "log": self._message,
            "end": self._verdict,
            **self._errands.known,
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
            "params": {name: secret.reveal() for name, secret in self._params.items()},
            "s3": {name: getattr(s3, name) for name in fields},
            "run": self._run,
            "job": self._job,
            "pins": {name: dict(pin) for name, pin in self._replay.pins.items()} if self._replay else {},
        }

    def _event(self, *, event: dict[str, Any]) -> None:
        clean, _ = redact_value(event, self._secrets)
        self._note({**clean, "at": datetime.now(UTC).isoformat(timespec="milliseconds")})

    def cell(self, state: CellState) -> None:
        """Note a cell's start or end, which the notebook's last save may not tell."""
        with self._lock:
            self._append({"kind": "cell", **dataclasses.asdict(state)})

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what happened, here and on the disk."""
        with self._lock:
            self.events.append(event)
            self._append(event)

    def _append(self, line: dict[str, Any]) -> None:
        """Write a line; the caller holds the lock. What comes after `close` is not written any more."""
        try:
            os.write(self._log, json.dumps(line).encode() + b"\n")
        except OSError as exc:
            self.fault = exc

    def _verdict(self, *, ok: bool) -> bool:
        with self._lock:
            self.verdict = bool(ok) if self.verdict is None else self.verdict and bool(ok)
            self._append({"kind": "verdict", "ok": self.verdict})
            return self.verdict

    def _message(self, *, message: str, type: str = "INFO", file_id: str | None = None) -> None:
        # Half characters cannot be sent: one would stay at the head of what waits, now and in every recovery.
        event: dict[str, Any] = record.plain(
            {
                "kind": "message",
                "key": uuid.uuid4().hex,
                "type": type,
                "message": self._secrets.clean(message),
                "file_id": file_id or None,
            }
        )
        with self._speaking:
            self._event(event=event)
            self._unsent.append(event)
            self._send()

    def _send(self) -> None:
        """Send what waits, in order, as far as the platform takes it; raises what it says of the newest."""
        while self._unsent and time.monotonic() >= self._away_until:
            event = self._unsent[0]
            try:
                self._connection.client.message(
                    self._job,
                    event["message"],
                    type=event["type"],
                    file=event["file_id"],
                    idempotency_key=event["key"],
                )
            except Unreachable:
                self._away_until = time.monotonic() + AWAY
                return
            except PlatformError as exc:
                self._unsent.pop(0)
                with self._lock:
                    self._append({"kind": "refused", "key": event["key"], "error": str(exc)})
                if not self._unsent:
                    raise
            else:
                self._unsent.pop(0)
                with self._lock:
                    self._append({"kind": "sent", "key": event["key"]})


OWN = frozenset({"sent", "refused", "verdict", "cell"})
"""Kinds of lines in `events.jsonl` that are no events of the function."""


def unsent(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of what `events.jsonl` holds, the messages that were neither sent nor refused."""
    waiting: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event.get("kind") == "message" and "key" in event:
            waiting[event["key"]] = event
        elif event.get("kind") in ("sent", "refused"):
            waiting.pop(event.get("key", ""), None)
    return list(waiting.values())


def cells(events: Iterable[Mapping[str, Any]]) -> list[CellState]:
    """Of what `events.jsonl` holds, the starts and ends of cells."""
    from libsafe_nb.execution import CellState

    states = [dict(event) for event in events if event.get("kind") == "cell"]
    return [CellState(**{name: value for name, value in each.items() if name != "kind"}) for each in states]


def verdict(events: Iterable[Mapping[str, Any]]) -> bool | None:
    """Of what `events.jsonl` holds, the verdict."""
    found = None
    for event in events:
        if event.get("kind") == "verdict":
            found = bool(event["ok"])
    return found
