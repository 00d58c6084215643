"""
What the REST API answers, as plain dictionaries with named keys.

They are dictionaries, not classes, so that whatever else a real platform sends stays in them. Every id is a
string (platform.md 1.3: the payload's ids are), whatever the server sent.
"""

from __future__ import annotations

from typing import Any, TypedDict

FILE_TRIGGERS = (
    "file_created",
    "file_read",
    "file_updated",
    "file_deleted",
    "metadata_created",
    "metadata_updated",
    "metadata_deleted",
)
CLOCK_TRIGGERS = ("minute", "hour", "day", "cron")
ON_DEMAND = "on_demand"
TRIGGERS = (*FILE_TRIGGERS, *CLOCK_TRIGGERS, ON_DEMAND)
"""The types of triggers, as a payload tells them."""


class User(TypedDict, total=False):
    """`key` and `s3` are there once only: in the answer that created them."""

    id: str
    name: str
    key: str
    s3: dict[str, str]


class Container(TypedDict, total=False):
    id: str
    name: str
    description: str
    date_create: str


class File(TypedDict, total=False):
    """
    A file or a folder.

    `fullpath` has a leading slash; `path` and `name` repeat it for clients that read those. `size` is in bytes.
    `date_create` and `date_update` look like `2021-06-08 11:01:00.089657`. `online` false means that the bytes
    lie in a storage class that cannot be read at once. `hashes` maps an algorithm to a hex digest.
    """

    id: str
    container_id: str
    parent: str | None
    filename: str
    fullpath: str
    name: str
    path: str
    deleted: int
    size: int
    type: str
    structure: str | None
    format: str | None
    mime: str | None
    date_create: str
    date_update: str
    storage_class_id: str | None
    online: bool
    version_id: str | None
    etag: str | None
    hashes: dict[str, str]
    tags: list[str]


class Version(TypedDict, total=False):
    version_id: str
    size: int
    etag: str
    deleted: int
    date_create: str


class Job(TypedDict, total=False):
    """`status` is QUEUED, RUNNING, COMPLETED, FAILED or CANCELLED; `progress` runs from 0 to 1."""

    id: str
    container_id: str
    user_id: str
    function_id: str
    function_key: str
    name: str
    parent_id: str | None
    status: str
    progress: float | None
    result: Any
    date_create: str
    date_start: str | None
    date_end: str | None


class Message(TypedDict, total=False):
    id: str
    job_id: str
    type: str
    message: str
    file_id: str | None
    date_create: str


class Descriptor(TypedDict, total=False):
    """
    One metadata field: its IECODE and its value or values.

    `action` counts only when writing: `replace` (the default), `add` or `remove`.
    """

    iecode: str
    value: Any
    action: str


class Tag(TypedDict, total=False):
    id: str
    name: str


class Condition(TypedDict):
    """One condition of the advanced file search; the vendor's properties and operators (platform.md 1.2)."""

    property: str
    operator: str
    value: Any


def with_string_ids(result: Any) -> Any:
    """
    `result` with each id as a string: `id`, `parent`, all that ends in `_id`, and lists of `tags`.

    Goes one level down, which is where the API puts them; changes dictionaries in place.
    """
    if isinstance(result, list):
        for each in result:
            _stringify(each)
    else:
        _stringify(result)
    return result


def _stringify(item: Any) -> None:
    if not isinstance(item, dict):
        return
    for name, value in item.items():
        # A boolean is an int to isinstance, and no id.
        if type(value) is int and (name in ("id", "parent") or name.endswith("_id")):
            item[name] = str(value)
        elif name == "tags" and isinstance(value, list):
            item[name] = [str(each) if type(each) is int else each for each in value]
