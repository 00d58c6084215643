"""
What the runner does for the kernel that knocks at the door: hand out the keys once, note effects, write to the job, run errands.

Messages, hashes and metadata of the function are written down first and sent in the background (`deliveries.py`): the
function goes on meanwhile, also while the platform is away. They have arrived before it reads what they change, before
`job_end` returns, and at the run's end; one that was refused is told to the job and makes the run a failed one.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from libsafe_nb import deliveries, origins, record
from libsafe_nb.deliveries import Deliveries, Write
from libsafe_nb.errands import Begun, Errands
from libsafe_nb.errors import LibsafeError, PlatformError, Unreachable, UsageError
from libsafe_nb.patience import BUDGET
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.redact.values import redact_value
from libsafe_nb.secrets import Secret

if TYPE_CHECKING:
    from libsafe_nb.bypath import Publish
    from libsafe_nb.client import Client
    from libsafe_nb.connection import Connection
    from libsafe_nb.execution import CellState
    from libsafe_nb.models import Replay

STALLED, HURRY, LOOK = 10.0, 2.0, 0.2
"""Seconds without an arrival after which the end is not waited for; those of one who is in a hurry; of each look."""

READS = 1000
"""Files in one notice of what was read."""


class Desk:
    """
    Answers one run's door. Thread-safe.

    Attributes
    ----------
    events
        What the function read, wrote and said, in order; also in `events.jsonl`, so a killed runner leaves it.
    verdict
        None until the function called `job_end`; the first call wins, save that False lowers it.
    calls
        Those that it makes of other functions.
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
        publish: Publish | None = None,
        beside: str | None = None,
        past: Begun | None = None,
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
            publish=publish,
            beside=beside,
            past=past,
        )
        self.calls = self._errands.calls
        self.fault: OSError | None = None
        self._nonce_spent = False
        self._lock = threading.Lock()
        self._deliveries = Deliveries(self._connection.client, job, self._became)
        self._refused: dict[str, LibsafeError] = {}
        self._adding = threading.Lock()
        self._log = -1
        try:
            self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            self.fault = exc

    def close(self) -> None:
        """Force what was noted to the disk, and take no more; what is still being sent counts as unsent."""
        self._connection.close()
        self._deliveries.close()
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

    def tell_left(self, left: Callable[[Client, list[dict[str, Any]]], Iterable[dict[str, Any]]]) -> None:
        """Note how what the function has set reads back at its end."""
        if self._replay is None:
            for each in list(left(self._connection.client, list(self.events))):
                self._note(self._clean({**each, "at": _now()}))

    def take_all(self) -> None:
        """The function has ended: what it said and is still in the door is taken now, not as fast as it can be sent."""
        self._deliveries.hold_nobody()

    def settle_calls(self, unless: Callable[[], bool]) -> None:
        """Note what has become of the functions that this one called, at the run's end; waits for nothing if `unless` says so."""
        self.calls.settle(unless)

    def tell_used(self) -> None:
        """Note which earlier runs wrote what this one has read; as well as can be, at its end."""
        if self._replay is not None:
            return
        found = origins.used(
            list(self.events), job=self._job, client=self._connection.client, storage=self._connection.storage
        )
        for each in found:
            self._note(self._clean({**each, "at": _now()}))

    def finish(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """
        Wait until all has arrived, as long as something arrives; the rest is for the run's end.

        What was refused, and nobody was told of, lowers the verdict. `hurried` says whether somebody waits for the end.
        """
        left, since = len(self.unsent), time.monotonic()
        while left and time.monotonic() - since < (HURRY if hurried() else STALLED):
            with contextlib.suppress(Unreachable):
                self._deliveries.settle(seconds=LOOK)
            # Whose platform refuses at once is not asked without a pause.
            now = len(self.unsent)
            if now < left:
                since = time.monotonic()
            elif now:
                time.sleep(LOOK)
            left = now
        if self._refused:
            self._verdict(ok=False)

    @property
    def unsent(self) -> list[Write]:
        """What the function has said and changed and has not arrived, in order; of what is being sent nothing is known yet."""
        return self._deliveries.pending

    def answer(self, do: str, fields: dict[str, Any]) -> Any:
        """One request from the door; the methods below and `errands.py` have the words it knows."""
        doing: dict[str, Callable[..., Any]] = {
            "keys": self._keys,
            "event": self._event,
            "verdict": self._verdict,
            "log": self._message,
            "write": self._write,
            "settle": self._settle,
            "end": self._verdict,
            **self._errands.known,
        }
        if do not in doing:
            raise UsageError(f"the door knows no {do!r}")
        if do == "call":
            # The other function is to find what this one has given in.
            self._deliveries.settle()
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
        self._note({**self._clean(event), "at": _now()})

    def _clean(self, event: dict[str, Any]) -> dict[str, Any]:
        """Without secrets, and without half characters: one that cannot be sent would wait for ever."""
        # Most hold nothing, and one look at all their words is a tenth of a look at each.
        words = "\n".join(_words(event))
        if words.isascii() and not self._secrets.suspects_text(words):
            return event
        clean, _ = redact_value(event, self._secrets)
        found: dict[str, Any] = record.plain(clean)
        return found

    def cell(self, state: CellState) -> None:
        """Note a cell's start or end, which the notebook's last save may not tell."""
        with self._lock:
            self._append({"kind": "cell", **dataclasses.asdict(state)})

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what happened, here and on the disk."""
        with self._lock:
            self.events.append(event)
            self._append(event)

    def _append(self, *lines: dict[str, Any]) -> None:
        """Write lines; the caller holds the lock. What comes after `close` is not written any more."""
        try:
            os.write(self._log, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        except OSError as exc:
            self.fault = exc

    def _verdict(self, *, ok: bool) -> bool:
        with contextlib.suppress(Unreachable):
            self._deliveries.settle()
        with self._lock:
            ok = ok and not self._refused
            self.verdict = bool(ok) if self.verdict is None else self.verdict and bool(ok)
            self._append({"kind": "verdict", "ok": self.verdict})
            return self.verdict

    def _message(self, *, message: str, type: str = "INFO", file_id: str | None = None) -> None:
        event = self._clean(
            {
                "kind": "message",
                "key": uuid.uuid4().hex,
                "type": type,
                "message": message,
                "file_id": file_id or None,
            }
        )
        # One at a time, so that they are sent in the order in which they are written down.
        with self._adding:
            self._note({**event, "at": _now()})
            self._deliveries.add(event)

    def _write(self, *, effect: dict[str, Any], descriptors: list[Any] | None = None) -> None:
        """A hash, or with `descriptors` metadata, to be stored in the background; noted on return."""
        clean = self._clean(effect)
        line: dict[str, Any] = {"kind": "intent", "effect": clean, "key": uuid.uuid4().hex}
        if descriptors is not None:
            from libsafe_nb.compat.writing import refuse

            text = json.dumps(descriptors, ensure_ascii=False)
            where = f"metadata of {clean['target']} {clean['id']}"
            refuse(((span.secret, span.form) for span in self._secrets.find(text)), where)
            line["descriptors"] = record.plain(descriptors)
        write = deliveries.of_line(line)
        if write is None or not deliveries.whole(write):
            # Once written down it would be tried for ever.
            raise UsageError(f"write: expected a hash or metadata of a file, found {clean.get('kind')!r}")
        with self._adding:
            self._note(line)
            self._deliveries.add(write)

    def _settle(self, *, about: str | None = None) -> None:
        """Wait until what was given in has arrived; raises why what is asked about was refused, once."""
        self._deliveries.settle(about)
        refusal = self._refused.pop(about, None) if about is not None else None
        if refusal is not None:
            raise refusal

    def _became(self, write: Write, refusal: LibsafeError | None) -> None:
        *told, last = deliveries.lines_of(write, refusal)
        notice = None if refusal is None else deliveries.notice(write, refusal)
        told += [] if notice is None else [notice]
        events = [{**each, "at": _now()} for each in told]
        with self._lock:
            self.events += events
            self._append(*events, last)
        if refusal is not None and write["kind"] != "message":
            self._refused[deliveries.about(write)] = refusal
        if notice is not None:
            self._deliveries.add(notice, wait=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _words(value: Any) -> Iterator[str]:
    """All text in a value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield str(name)
            yield from _words(each)
    elif isinstance(value, list):
        for each in value:
            yield from _words(each)


OWN = frozenset({"sent", "refused", "verdict", "cell"})
"""Kinds of lines in `events.jsonl` that are no events of the function."""


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
