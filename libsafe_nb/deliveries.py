"""
What a function tells the platform and need not wait for: messages of its job, hashes and metadata of files.

They are gathered for a moment and sent in the background, many a call. Of one kind they arrive in their order; hashes
and metadata go before the messages of the same moment, so that no message tells of what was not done. The calls for
many are not known on a real platform: where they are refused and the single ones are not, it is single ones from then on.

Whoever gives something in has written it down before (`desk.py`), with its idempotency key: what is sent again, by a
recovery too, acts once on a platform that knows such keys.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from libsafe_nb.errors import LibsafeError, PlatformError, Unreachable
from libsafe_nb.patience import BUDGET

if TYPE_CHECKING:
    from libsafe_nb.client import Client

Write = Mapping[str, Any]
"""
One of these, `key` being its idempotency key:

    {"kind": "message", "key", "type", "message", "file_id"}
    {"kind": "hash", "key", "file_id", "algorithm", "value"}
    {"kind": "metadata", "key", "target", "id", "descriptors"}
"""

LINGER = 0.1
"""Seconds that a write waits for others."""

MOST = 1000
"""Writes sent at once."""

LARGE = 1024 * 1024
"""Characters of messages and descriptors sent at once, unless one alone has more."""

AWAY = 15.0
"""Seconds in which nothing is tried after a call was not answered, unless somebody waits for it."""

FULL = 20_000
"""Writes on their way, beyond which whoever gives one in waits, unless the platform is away."""

NOTICE = "-refused"
"""How the key of a message ends that tells of a refusal."""

CLOSES_WITHIN = 2.0
"""Seconds that `close` waits for the call under way."""

Became = Callable[[Write, LibsafeError | None], None]
"""Told of each write that has arrived (None), or was refused."""


def about(write: Write) -> str:
    """What a write changes: `file 12`, `container 3`, or `job`."""
    if write["kind"] == "message":
        return "job"
    return f"file {write['file_id']}" if write["kind"] == "hash" else f"{write['target']} {write['id']}"


FIELDS = {
    "hash": ("file_id", "algorithm", "value"),
    "message": ("type", "message"),
    "metadata": ("target", "id", "descriptors"),
}


def whole(write: Write) -> bool:
    """Whether it is one of the three, with all that it takes."""
    return all(write.get(each) is not None for each in FIELDS.get(str(write.get("kind")), ("kind of none",)))


class Sending:
    """Sends writes of one job, here and now. For one thread at a time; it remembers which calls for many are refused."""

    def __init__(self, client: Client, job: str, became: Became) -> None:
        self._client, self._job, self._became = client, job, became
        self._one_by_one: set[str] = set()

    def send(self, writes: Sequence[Write]) -> None:
        """
        Send all; each is told to `became`.

        Raises
        ------
        Unreachable
            The platform does not answer: what `became` was not told of has not arrived, or may have.
        """
        for kind in ("hash", "metadata", "message"):
            mine = [each for each in writes if each["kind"] == kind]
            many = [each for each in mine if each.get("target") != "container"]
            for each in mine:
                if each.get("target") == "container":
                    self._one(each)
            if len(many) > 1 and kind not in self._one_by_one:
                self._many(kind, many)
            else:
                for each in many:
                    self._one(each)

    def _many(self, kind: str, writes: Sequence[Write]) -> None:
        try:
            if kind == "hash":
                self._client.set_hashes([_hash(each) for each in writes])
            elif kind == "metadata":
                self._client.set_metadata_of_many([_metadata(each) for each in writes])
            else:
                self._client.message_many(self._job, [_message(each) for each in writes])
        except Unreachable:
            raise
        except LibsafeError:
            # All or none: one of them was the reason, or there is no such call.
            taken = [self._one(each) for each in writes]
            if all(taken):
                self._one_by_one.add(kind)
        else:
            for each in writes:
                self._became(each, None)

    def _one(self, write: Write) -> bool:
        """Send one; whether it was taken."""
        client, key = self._client, str(write["key"])
        try:
            if write["kind"] == "hash":
                client.set_hash(write["file_id"], write["algorithm"], write["value"], idempotency_key=key)
            elif write["kind"] == "metadata":
                set_metadata = (
                    client.set_container_metadata if write["target"] == "container" else client.set_metadata
                )
                set_metadata(write["id"], write["descriptors"], idempotency_key=key)
            else:
                self._tell(write)
        except Unreachable:
            raise
        except LibsafeError as exc:
            # Of the platform, or of ours: an id that is none is not sent at all.
            self._became(write, exc)
            return False
        self._became(write, None)
        return True

    def _tell(self, write: Write) -> None:
        """A message that is refused with its file is told without it: the words matter most."""
        file = write.get("file_id") or None
        text, type, key = str(write["message"]), str(write["type"]), str(write["key"])
        try:
            self._client.message(self._job, text, type=type, file=file, idempotency_key=key)
        except Unreachable:
            raise
        except PlatformError:
            if file is None:
                raise
            self._client.message(self._job, f"{text} (file {file})", type=type, idempotency_key=key)


class Deliveries:
    """
    The writes of one run that are on their way. Thread-safe.

    Parameters
    ----------
    became
        Called in the sending thread for each write that arrived or was refused, before anybody who waits is let go.
    """

    def __init__(self, client: Client, job: str, became: Became) -> None:
        self._became = became
        self._sending = Sending(client, job, self._arrived)
        self._changed = threading.Condition()
        self._waiting: dict[str, Write] = {}
        self._count: dict[str, int] = {}
        self._since = 0.0
        self._away_until = 0.0
        self._hurry_to = 0
        self._attempts = 0
        self._fault: Unreachable | None = None
        self._closed, self._holding = False, True
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> list[Write]:
        """What has not arrived, in order; of what is being sent nothing is known yet."""
        with self._changed:
            return list(self._waiting.values())

    def add(self, write: Write, *, wait: bool = True) -> None:
        with self._changed:
            while (
                wait
                and self._holding
                and len(self._waiting) >= FULL
                and self._fault is None
                and not self._closed
            ):
                self._changed.wait()
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting[write["key"]] = write
            self._count[about(write)] = self._count.get(about(write), 0) + 1
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="deliveries", daemon=True)
                self._thread.start()
            if len(self._waiting) in (1, MOST):
                self._changed.notify_all()

    def settle(self, subject: str | None = None, *, seconds: float = BUDGET) -> None:
        """
        Wait until what was given in about `subject` (as `about` names it; None: everything) has arrived.

        Raises
        ------
        Unreachable
            The platform did not answer; it is tried again later.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            if not self._is_waiting(subject):
                return
            begun = self._attempts
            while self._is_waiting(subject) and not self._closed:
                if self._fault is not None and self._attempts > begun:
                    raise self._fault
                # Each asks for one more attempt, and not for attempts without a pause.
                if self._hurry_to <= self._attempts:
                    self._hurry_to = self._attempts + 1
                    self._changed.notify_all()
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise Unreachable(
                        f"{len(self._waiting)} messages, hashes and metadata were not delivered in {seconds:g} s"
                    )
            if self._is_waiting(subject):
                raise Unreachable("the run has ended, and what still waits is delivered by its end")

    def hold_nobody(self) -> None:
        """From now on whoever gives something in does not wait, however much is on its way."""
        with self._changed:
            self._holding = False
            self._changed.notify_all()

    def close(self) -> None:
        """Send no more; a call under way counts as not answered."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(CLOSES_WITHIN)

    def _is_waiting(self, subject: str | None) -> bool:
        return bool(self._waiting) if subject is None else self._count.get(subject, 0) > 0

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (pause := self._pause()) != 0:
                    self._changed.wait(pause)
                if self._closed:
                    return
                writes = self._next()
            fault: Unreachable | None = None
            try:
                self._sending.send(writes)
            except Unreachable as exc:
                fault = exc
            with self._changed:
                self._attempts += 1
                self._fault = fault
                self._away_until = time.monotonic() + AWAY if fault else 0.0
                self._since = time.monotonic()
                self._changed.notify_all()

    def _pause(self) -> float | None:
        """Seconds until there is something to do; None: until something comes."""
        if not self._waiting:
            return None
        if self._attempts < self._hurry_to:
            return 0
        begin = self._since + (0 if len(self._waiting) >= MOST else LINGER)
        return max(max(begin, self._away_until) - time.monotonic(), 0)

    def _next(self) -> list[Write]:
        found: list[Write] = []
        size = 0
        for write in self._waiting.values():
            size += len(str(write.get("message") or write.get("descriptors") or ""))
            if found and (len(found) == MOST or size > LARGE):
                break
            found.append(write)
        return found

    def _arrived(self, write: Write, refusal: LibsafeError | None) -> None:
        self._became(write, refusal)
        with self._changed:
            del self._waiting[write["key"]]
            self._count[about(write)] -= 1
            if not self._count[about(write)]:
                del self._count[about(write)]


def lines_of(write: Write, refusal: LibsafeError | None) -> list[dict[str, Any]]:
    """What `events.jsonl` is told of a write that has arrived or was refused; the last line closes it."""
    closing = {"kind": "sent", "key": write["key"]}
    if refusal is not None:
        closing = {"kind": "refused", "key": write["key"], "error": str(refusal)}
    if write["kind"] == "message":
        return [closing]
    effect = {name: value for name, value in write.items() if name not in ("key", "descriptors")}
    if refusal is None:
        return [effect, closing]
    return [{"kind": "failure", "effect": effect, "error": f"{type(refusal).__name__}: {refusal}"}, closing]


def notice(write: Write, refusal: LibsafeError) -> dict[str, Any] | None:
    """
    The message with which the job is told of a refusal, as the function has gone on; None for a refused notice.

    Of a hash or metadata it is an ERROR about the file; of a message, which the evidence has all the same, a WARNING.
    """
    key = f"{write['key']}{NOTICE}"
    if write["kind"] == "message":
        if str(write["key"]).endswith(NOTICE):
            return None
        text = f"not told: a message of {len(write['message'])} characters: {refusal}"
        return {"kind": "message", "key": key, "type": "WARNING", "message": text, "file_id": None}
    what = f"hash {write['algorithm']}" if write["kind"] == "hash" else write["kind"]
    return {
        "kind": "message",
        "key": key,
        "type": "ERROR",
        "message": f"not stored: the {what} of {about(write)}: {refusal}",
        "file_id": str(write.get("file_id") or write["id"]) if about(write).startswith("file") else None,
    }


def unsent(lines: Iterable[Mapping[str, Any]]) -> list[Write]:
    """Of what `events.jsonl` holds, the writes that have neither arrived nor were refused, in order."""
    waiting: dict[str, Write] = {}
    for line in lines:
        if line.get("kind") in ("sent", "refused"):
            waiting.pop(line.get("key", ""), None)
        elif "key" in line:
            write = of_line(line)
            if write is not None:
                waiting[write["key"]] = write
    return list(waiting.values())


def of_line(line: Mapping[str, Any]) -> Write | None:
    """The write that a line of `events.jsonl` tells of; None for one that is done when it is told."""
    if line.get("kind") == "message":
        return line
    if line.get("kind") == "intent" and "key" in line:
        effect = line["effect"]
        return {
            **effect,
            "key": line["key"],
            **({"descriptors": line["descriptors"]} if "descriptors" in line else {}),
        }
    return None


def _hash(write: Write) -> dict[str, str]:
    return {
        "id": str(write["file_id"]),
        "algorithm": write["algorithm"],
        "value": write["value"],
        "idempotency_key": write["key"],
    }


def _metadata(write: Write) -> dict[str, Any]:
    return {"id": str(write["id"]), "metadata": write["descriptors"], "idempotency_key": write["key"]}


def _message(write: Write) -> dict[str, Any]:
    file = {"file_id": write["file_id"]} if write.get("file_id") else {}
    return {"type": write["type"], "message": write["message"], "idempotency_key": write["key"], **file}
