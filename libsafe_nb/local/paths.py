"""Which paths within a container may be: the same for REST and for S3, whose keys are container and path."""

from __future__ import annotations


def key_problem(path: str) -> str | None:
    """
    Why a path within a container cannot be, or None when it can.

    A last empty segment is a folder's marker, as S3 browsers make them. The rest is what the S3 server would store as
    something else: it folds `a//b` into `a/b`, takes a backslash for a slash, and hides what lies in folders whose names
    end in `.versions`, where it keeps its versions.
    """
    *folders, last = path.split("/")
    if not path.strip("/"):
        return "it names no file in the container"
    if any(part in ("", ".", "..") for part in folders) or last in (".", ".."):
        return "it has an empty, '.' or '..' segment"
    if "\\" in path or any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        return "it has a backslash or a control character"
    if any(part.endswith(".versions") for part in folders):
        return "a folder's name may not end in '.versions'"
    if len(path.encode("utf-8", "surrogatepass")) > 1000 or any(
        len(p.encode()) > 240 for p in path.split("/")
    ):
        return "it is longer than 1,000 bytes, or a segment longer than 240"
    return None
