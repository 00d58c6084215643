"""
A handler called in a kernel as Nuclio's Python runtime would call it (`handlers.py` writes the cells that use this).

The shapes are those of `nuclio-sdk`, which a handler may import as well: the event's body is bytes, the context has a
logger and a `Response`. What the logger is told stands in the cell's output; warnings and errors are messages of the job
as well.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import inspect
import json
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from libsafe_nb.compat import session

LONGEST = 64 * 1024
"""Characters of an answer that are recorded; of a longer one its beginning."""


class Response:
    """What a handler may return in place of a plain value. A status of 400 or more makes the job FAILED."""

    def __init__(
        self,
        headers: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str | None = None,
        status_code: int = 200,
        event_id: Any = None,
    ) -> None:
        self.headers = dict(headers or {})
        self.body = body
        self.content_type = content_type or "text/plain"
        self.status_code = status_code
        self.event_id = event_id


class Event:
    """One event; `body` is the payload as bytes of JSON."""

    def __init__(self, payload: Any) -> None:
        self.body = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
        self.size = len(self.body)
        self.content_type = "text/plain"
        self.method, self.path, self.url = "POST", "/", ""
        self.headers: dict[str, Any] = {}
        self.fields: dict[str, Any] = {}
        self.trigger = types.SimpleNamespace(kind="http", name="http")
        self.timestamp = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        self.id = self.shard_id = self.num_shards = self.type = self.type_version = self.version = None
        self.topic = None
        self.offset, self.last_in_batch = 0, False

    def get_header(self, header_key: str) -> Any:
        return next((value for key, value in self.headers.items() if key.lower() == header_key.lower()), None)


class Logger:
    """Nuclio's logger: `info(message, *args)`, `info_with(message, **fields)`, and so for each level; `bind(**fields)`."""

    def __init__(self) -> None:
        self._bound: dict[str, Any] = {}

    def bind(self, **fields: Any) -> None:
        self._bound.update(fields)

    def debug(self, message: Any, *args: Any) -> None:
        self._say("DEBUG", message, args, {})

    def info(self, message: Any, *args: Any) -> None:
        self._say("INFO", message, args, {})

    def warn(self, message: Any, *args: Any) -> None:
        self._say("WARNING", message, args, {})

    def error(self, message: Any, *args: Any) -> None:
        self._say("ERROR", message, args, {})

    def debug_with(self, message: Any, *args: Any, **fields: Any) -> None:
        self._say("DEBUG", message, args, fields)

    def info_with(self, message: Any, *args: Any, **fields: Any) -> None:
        self._say("INFO", message, args, fields)

    def warn_with(self, message: Any, *args: Any, **fields: Any) -> None:
        self._say("WARNING", message, args, fields)

    def error_with(self, message: Any, *args: Any, **fields: Any) -> None:
        self._say("ERROR", message, args, fields)

    def _say(self, level: str, message: Any, args: tuple[Any, ...], fields: Mapping[str, Any]) -> None:
        text = str(message)
        if args:
            try:
                text %= args
            except (TypeError, ValueError):
                # As `logging` does: a message that does not fit its arguments is no reason to fail.
                text = f"{text} {args!r}"
        told = {**fields, **self._bound}
        if told:
            text += " " + json.dumps(told, ensure_ascii=False, default=str)
        # Without the time, which would differ in a replay; when a cell ran is recorded anyway.
        print(f"{level} {text}", flush=True)
        attached = session.attached()
        if level in ("WARNING", "ERROR") and attached is not None:
            attached.give("job", "log", message=text, type=level, file_id=None)


class Context:
    """What Nuclio gives a handler beside the event. `platform`, by which functions call others there, is None here."""

    def __init__(self) -> None:
        self.logger = Logger()
        self.Response = Response
        self.user_data = types.SimpleNamespace()
        self.platform = None
        self.worker_id = 0
        self.trigger = types.SimpleNamespace(kind="http", name="http")
        self.trigger_name = "http"


def as_module(namespace: dict[str, Any], name: str) -> None:
    """
    Let the kernel's namespace be the module `name`, as if the code in it were imported.

    So a guarded `__main__` part is not run, and what is defined there can be pickled by its name.
    """
    namespace["__name__"] = name
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = sys.modules["__main__"]


def call(handler: Callable[..., Any], payload: Any, init_context: Callable[..., Any] | None = None) -> None:
    """Call a handler with the payload and record what it returns. What is to be awaited, though it is no `async def`, is."""
    context = Context()
    if init_context is not None:
        _waited(init_context(context))
    record(handler(context, Event(payload)))


async def call_async(
    handler: Callable[..., Any], payload: Any, init_context: Callable[..., Any] | None = None
) -> None:
    """
    The same for an `async def`, in the kernel's own loop.

    Not for all: while a cell awaits, an interrupt reaches it only where it lets others run.
    """
    context = Context()
    begun = init_context(context) if init_context is not None else None
    if inspect.isawaitable(begun):
        await begun
    returned = handler(context, Event(payload))
    record(await _end(returned))


def _waited(returned: Any) -> Any:
    """What is awaited in the end; in a thread, as this one's loop runs already."""
    if not inspect.isawaitable(returned) and not inspect.isasyncgen(returned):
        return returned
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, _end(returned)).result()


async def _end(returned: Any) -> Any:
    if inspect.isawaitable(returned):
        returned = await returned
    if inspect.isasyncgen(returned):
        parts = [part async for part in returned]
        return (part for part in parts)
    return returned


def record(returned: Any) -> None:
    """What a handler returned, as an output of the cell, and as the run's scrap `response`; what is to be awaited, is."""
    returned = _waited(returned)
    if returned is None:
        return
    answer = described(returned)
    from IPython.display import display

    scrap = {"name": "response", "data": answer, "encoder": "json", "version": 1}
    shown = f"{answer['status_code']} {answer['content_type']}: {answer['body']}"
    display({"text/plain": shown, "application/scrapbook.scrap.json+json": scrap}, raw=True)
    attached = session.attached()
    if answer["status_code"] >= 400 and attached is not None:
        attached.end(False)


def described(returned: Any) -> dict[str, Any]:
    """
    What Nuclio would answer for a returned value: status, content type and body, the latter as text.

    Raises
    ------
    TypeError
        The status is no number, which Nuclio does not answer either.
    """
    status, content_type, body = 200, "text/plain", returned
    if isinstance(returned, tuple) and len(returned) == 2:
        status, body = returned
    elif hasattr(returned, "status_code") and hasattr(returned, "body"):
        status, body, content_type = returned.status_code, returned.body, str(returned.content_type)
    try:
        number = int(status)
    except (TypeError, ValueError, OverflowError) as exc:
        raise TypeError(f"the handler returned the status {status!r:.100}, expected a number") from exc
    if isinstance(body, (dict, list)):
        body, content_type = json.dumps(body, ensure_ascii=False, default=str), "application/json"
    # Nuclio streams generators; what is in them runs only as they are read.
    text, size = _joined(body if inspect.isgenerator(body) else [body])
    if size > LONGEST:
        text = f"{text}… ({size} characters)"
    return {"status_code": number, "content_type": content_type, "body": text}


def _joined(parts: Iterable[Any]) -> tuple[str, int]:
    """The text of an answer's parts, `LONGEST` characters of it at most, and how long it is."""
    text, size = "", 0
    for part in parts:
        body = part.body if hasattr(part, "status_code") and hasattr(part, "body") else part
        if isinstance(body, (bytes, bytearray, memoryview)):
            body = bytes(body).decode(errors="replace")
        piece = "" if body is None else str(body)
        size += len(piece)
        text += piece[: LONGEST - len(text)]
    return text, size
