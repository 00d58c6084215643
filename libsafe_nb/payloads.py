"""
The payload: the JSON with which the platform calls a Function.

    {"api": {"url": "http://go.libnova.com", "key_user": "…", "key_root": "…"},
     "function_data": {
        "container": {"id": "1"}, "user": {"id": "1"},
        "files": {"ids": [], "paths": []},
        "job": {"id": "299"},
        "trigger": {"id": "0", "type": "", "regex": ""},
        "function": {"id": "0", "key": ""}},
     "function_params": {"your_custom_parameter": "custom_parameter_value"}}

Keys and shapes are the vendor's (documentation page "Jupyter Notebooks" of LIBSAFE Go); ids are strings. Trigger
id "0", type "" and function id "0", key "" mark a manual run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from libsafe_nb import strictjson
from libsafe_nb.errors import PayloadError

MAX_BYTES = 64 * 1024 * 1024
"""A payload of more bytes is refused: a million file ids with their paths fit, an attack does not."""

MAX_DEPTH = 100

_REQUIRED = ("function_data", "function_data.container", "function_data.container.id")

_MANUAL: dict[str, Any] = {
    "container": {"id": "0"},
    "user": {"id": "0"},
    "files": {"ids": [], "paths": []},
    "job": {"id": ""},
    "trigger": {"id": "0", "type": "", "regex": ""},
    "function": {"id": "0", "key": ""},
}


@dataclass(frozen=True)
class Payload:
    """
    One parsed payload. `data` is the whole JSON object, unknown keys included; treat it as read-only.

    Make one with `Payload.parse` (from outside) or `Payload.manual` (a run that nobody triggered).
    """

    data: dict[str, Any]

    @classmethod
    def parse(cls, source: str | bytes | Mapping[str, Any]) -> Payload:
        """
        Read a payload from JSON text, from bytes (as Nuclio sends them) or from a dictionary.

        Integer ids become strings; absent parts other than the container become those of a manual run.

        Raises
        ------
        PayloadError
            Not JSON, too large, or a value of the wrong type; `.path` names the place.
        """
        data = _decode(source) if isinstance(source, (str, bytes)) else _copy(source)
        if not isinstance(data, dict):
            _refuse("", f"expected a JSON object, got {_kind(data)}")
        _check(data)
        return cls(data)

    @classmethod
    def manual(cls, *, container: str, params: Mapping[str, Any] | None = None) -> Payload:
        """A payload as the vendor's page tells authors to write it by hand, without keys."""
        data = {
            "api": {},
            "function_data": {"container": {"id": container}},
            "function_params": dict(params or {}),
        }
        return cls.parse(data)

    def __repr__(self) -> str:
        # Keys are in `data`, so it is not shown.
        return f"Payload(container={self.container!r}, job={self.job!r}, files={len(self.file_ids) or len(self.file_paths)})"

    @property
    def container(self) -> str:
        return str(self.data["function_data"]["container"]["id"])

    @property
    def user(self) -> str:
        return str(self.data["function_data"]["user"]["id"])

    @property
    def job(self) -> str:
        """The job's id; empty when the payload names none."""
        return str(self.data["function_data"]["job"]["id"])

    @property
    def file_ids(self) -> list[str]:
        return list(self.data["function_data"]["files"]["ids"])

    @property
    def file_paths(self) -> list[str]:
        return list(self.data["function_data"]["files"]["paths"])

    @property
    def function_id(self) -> str:
        return str(self.data["function_data"]["function"]["id"])

    @property
    def function_key(self) -> str:
        return str(self.data["function_data"]["function"]["key"])

    @property
    def trigger(self) -> dict[str, str]:
        return dict(self.data["function_data"]["trigger"])

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.data["function_params"])

    @property
    def api(self) -> dict[str, Any]:
        return dict(self.data["api"])

    def replace(
        self,
        *,
        api: Mapping[str, Any] | None = None,
        container: str | None = None,
        user: str | None = None,
        job: str | None = None,
        function_id: str | None = None,
        function_key: str | None = None,
        file_ids: Iterable[str] | None = None,
        file_paths: Iterable[str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Payload:
        """A copy with the given parts replaced; every other key stays as it was."""
        data = copy.deepcopy(self.data)
        function = data["function_data"]
        if api is not None:
            data["api"] = dict(api)
        if container is not None:
            function["container"]["id"] = container
        if user is not None:
            function["user"]["id"] = user
        if job is not None:
            function["job"]["id"] = job
        if function_id is not None:
            function["function"]["id"] = function_id
        if function_key is not None:
            function["function"]["key"] = function_key
        if file_ids is not None:
            function["files"]["ids"] = list(file_ids)
        if file_paths is not None:
            function["files"]["paths"] = list(file_paths)
        if params is not None:
            data["function_params"] = dict(params)
        return Payload(data)

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.data)

    def to_json(self) -> str:
        return json.dumps(self.data, ensure_ascii=False)


def _decode(source: str | bytes) -> Any:
    size = len(source)
    if size > MAX_BYTES:
        _refuse("", f"expected at most {MAX_BYTES} bytes, got {size}")
    try:
        text = source.decode("utf-8-sig") if isinstance(source, bytes) else source
    except UnicodeDecodeError as exc:
        _refuse("", f"expected UTF-8, got byte 0x{source[exc.start]:02x} at {exc.start}")
    try:
        return strictjson.loads(text)
    except strictjson.NotStrictError as exc:
        _refuse("", f"expected JSON, got {exc}")
    except json.JSONDecodeError as exc:
        _refuse("", f"expected JSON, got {exc.msg} at line {exc.lineno} column {exc.colno}")
    except RecursionError:
        _refuse("", f"expected at most {MAX_DEPTH} levels, got more")
    except ValueError as exc:
        # An integer of thousands of digits (CPython's limit on conversions).
        _refuse("", f"expected JSON of sensible numbers, got something else ({exc})")


def _copy(source: Mapping[str, Any]) -> Any:
    """A deep copy that is certainly JSON: what does not survive JSON never reaches a notebook."""
    try:
        text = json.dumps(source, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        _refuse("", f"expected JSON values, got something else ({exc})")
    return _decode(text)


def _check(data: dict[str, Any]) -> None:
    if _depth(data) > MAX_DEPTH:
        _refuse("", f"expected at most {MAX_DEPTH} levels, got more")
    try:
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        _refuse("", "expected text, got half a surrogate pair, which is no character")
    except ValueError:
        _refuse("", "expected finite numbers, got one beyond what a double holds")
    for path in _REQUIRED:
        _required(data, path)
    _object(data, "api", default={})
    _object(data, "function_params", default={})
    function = _object(data, "function_data")
    for name, default in _MANUAL.items():
        part = _object(function, name, default=copy.deepcopy(default), under="function_data")
        for key, value in default.items():
            part.setdefault(key, copy.deepcopy(value))
            path = f"function_data.{name}.{key}"
            if name == "files":
                part[key] = _strings(part[key], path, ids=key == "ids")
            elif key == "id":
                part[key] = _id(part[key], path, empty=name == "job")
            elif not isinstance(part[key], str):
                _refuse(path, f"expected a string, got {_kind(part[key])}")
    _check_files(function["files"])
    for name in ("url", "key_user", "key_root"):
        value = data["api"].get(name, "")
        if not isinstance(value, str) and not (isinstance(value, dict) and set(value) == {"$secret"}):
            _refuse(f"api.{name}", f"expected a string, got {_kind(value)}")


def _check_files(files: dict[str, list[str]]) -> None:
    ids, paths = files["ids"], files["paths"]
    if ids and paths and len(ids) != len(paths):
        _refuse("function_data.files.paths", f"expected {len(ids)} paths, one for each id, got {len(paths)}")


def _required(data: dict[str, Any], path: str) -> None:
    found: Any = data
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            _refuse(path, "is missing")
        found = found[name]


def _object(data: dict[str, Any], name: str, *, default: Any = None, under: str = "") -> dict[str, Any]:
    value = data.setdefault(name, default)
    if not isinstance(value, dict):
        _refuse(f"{under}.{name}" if under else name, f"expected an object, got {_kind(value)}")
    return value


def _id(value: Any, path: str, *, empty: bool = False) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        _refuse(path, f"expected a number as a string, got {_kind(value)}")
    if not (value.isascii() and value.isdigit() and len(value) <= 20) and not (empty and value == ""):
        _refuse(path, f"expected a number, got {value[:40]!r}")
    return value


def _strings(value: Any, path: str, *, ids: bool) -> list[str]:
    if not isinstance(value, list):
        _refuse(path, f"expected a list, got {_kind(value)}")
    if ids:
        return [_id(each, f"{path}[{index}]") for index, each in enumerate(value)]
    for index, each in enumerate(value):
        if not isinstance(each, str):
            _refuse(f"{path}[{index}]", f"expected a string, got {_kind(each)}")
    return value


def _depth(value: Any) -> int:
    """Levels of nesting, without recursion: the input may be hostile."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > MAX_DEPTH:
            return deepest
        level = [
            child
            for each in level
            if isinstance(each, (dict, list))
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return deepest


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
    int: "a number",
    float: "a number",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _refuse(path: str, what: str) -> NoReturn:
    place = path or "payload"
    raise PayloadError(f"{place}: {what}" if what != "is missing" else f"{place}: is missing", path=path)
