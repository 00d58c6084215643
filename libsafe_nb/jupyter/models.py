"""Objects as Jupyter's contents models: what is told of a file or folder, and its content in either direction. Pure."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from datetime import datetime
from typing import Any

from tornado import web

from libsafe_nb.jupyter.tree import Entry, is_evidence
from libsafe_nb.objects import ObjectInfo

HASH = "s3-etag"
"""What a model's `hash` is: it changes with each version, and no byte has to be read for it."""


def of_folder(path: str, *, writable: bool) -> dict[str, Any]:
    """A folder has no time of its own: object storage knows none."""
    return _model(path, "directory", writable=writable, modified="")


def of_entry(entry: Entry) -> dict[str, Any]:
    writable = not is_evidence(entry.path)
    if entry.info is None:
        return of_folder(entry.path, writable=writable)
    return of_object(entry.info, writable=writable)


def of_object(info: ObjectInfo, *, writable: bool, kind: str | None = None) -> dict[str, Any]:
    kind = kind or ("notebook" if is_notebook(info.path) else "file")
    model = _model(info.path, kind, writable=writable, modified=info.last_modified)
    return {**model, "size": info.size, "hash": info.etag, "hash_algorithm": HASH}


def of_arrival(path: str, now: datetime) -> dict[str, Any]:
    """A file of which chunks are still to come."""
    return _model(path, "file", writable=True, modified=now)


def is_notebook(path: str) -> bool:
    return path.endswith(".ipynb")


def content(data: bytes, path: str, asked: str | None) -> dict[str, Any]:
    """
    `content`, `format` and `mimetype` of a file that is no notebook.

    `asked` is `text`, `base64`, or None for text where it is text.
    """
    found = mimetypes.guess_type(path)[0]
    if asked != "base64":
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as exc:
            if asked == "text":
                raise web.HTTPError(
                    400, f"{path}: expected text in UTF-8, found byte 0x{data[exc.start]:02x} at {exc.start}"
                ) from exc
        else:
            return {"content": text, "format": "text", "mimetype": found or "text/plain"}
    encoded = base64.encodebytes(data).decode("ascii")
    return {"content": encoded, "format": "base64", "mimetype": found or "application/octet-stream"}


def decoded(model: dict[str, Any], path: str) -> bytes:
    """The bytes of a model of type `file`."""
    given, form = model.get("content"), model.get("format")
    if form not in ("text", "base64"):
        raise web.HTTPError(400, f"{path}: expected format text or base64, found {str(form)[:40]!r}")
    if not isinstance(given, str):
        raise web.HTTPError(400, f"{path}: expected content as text, found {type(given).__name__}")
    try:
        return given.encode("utf-8") if form == "text" else base64.b64decode(given)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise web.HTTPError(400, f"{path}: expected {form}, found what is none ({exc})") from exc


def _model(path: str, kind: str, *, writable: bool, modified: datetime | str) -> dict[str, Any]:
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "type": kind,
        "writable": writable,
        "created": modified,
        "last_modified": modified,
        "mimetype": None,
        "content": None,
        "format": None,
        "size": None,
    }
