"""
Writes a bag: files with their digests, for other archives' systems. BagIt 1.0, RFC 8493; section numbers are its own.

    TARGET/
    ├── bagit.txt               what this is (2.1.1)
    ├── bag-info.txt            whence it comes, and how much there is (2.2.2)
    ├── manifest-sha512.txt     a digest for each file in data/ (2.1.3; 2.4 asks new bags for SHA-512)
    ├── tagmanifest-sha512.txt  and for each of the files above (2.2.1)
    └── data/
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from libsafe_nb import atomic
from libsafe_nb.errors import UsageError
from libsafe_nb.spilled import Spilled

BLOCK = 1 << 20


def make(target: Path, sources: Iterable[tuple[str, bytes | BinaryIO]], *, info: Mapping[str, str]) -> int:
    """
    Write a bag to `target`, whole or not at all; answers how many files it holds. Memory does not grow with them.

    It grows in a folder beside the target, which is renamed when all is on the disk. Should something else come to stand
    at `target` in that very moment, the rename fails and that stays; an empty folder would be replaced.

    Parameters
    ----------
    sources
        Paths below `data/`, with slashes, and what is to stand there. Taken one by one, so a generator may open each
        stream when it is asked for it and close it afterwards; a stream is read from where it stands to its end.
    info
        For `bag-info.txt`, such as `{"External-Identifier": …}`. `Payload-Oxum` and, unless it is given,
        `Bagging-Date` are added.

    Raises
    ------
    UsageError
        Something stands at `target`, a path would lead out of `data/` or is there twice, or a label is none.
    """
    _free(target)
    growing = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}.tmp"
    growing.mkdir()
    try:
        count, tags = _write(growing, sources, info)
        _put(growing / "tagmanifest-sha512.txt", _manifest(tags))
        atomic.sync_folder(growing)
        _free(target)
        growing.rename(target)
    except BaseException:
        shutil.rmtree(growing, ignore_errors=True)
        raise
    atomic.sync_folder(target.parent)
    return count


def _free(target: Path) -> None:
    # A link that leads nowhere is something too, which `exists` does not see.
    if os.path.lexists(target):
        raise UsageError(f"{target}: expected nothing at the place of a new bag, found something")


def _write(
    bag: Path, sources: Iterable[tuple[str, bytes | BinaryIO]], info: Mapping[str, str]
) -> tuple[int, dict[str, str]]:
    """Write all but the tag manifest; gives the number of files and the digests of the tag files."""
    (bag / "data").mkdir()
    payload = Spilled()
    octets = 0
    for name, source in sources:
        place = _confined(name)
        size, payload[place] = _store(bag / place, source, name)
        octets += size
    today = datetime.now(UTC).date().isoformat()
    count = len(payload)
    told = {"Bagging-Date": today, **info, "Payload-Oxum": f"{octets}.{count}"}
    tags: dict[str, Iterable[bytes]] = {
        "bagit.txt": [b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"],
        "bag-info.txt": (_line(each).encode() for each in told.items()),
        "manifest-sha512.txt": _manifest(payload),
    }
    return count, {name: _put(bag / name, lines)[1] for name, lines in tags.items()}


def _confined(name: str) -> str:
    """
    The path of a payload file in the bag.

    A backslash is a slash to some systems, and no system may be led out of the bag (5, security considerations).
    """
    parts = re.split(r"[/\\]", name)
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"{name!r}: expected a path that stays within the bag's data folder")
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(f"{name!r}: expected a path that can be written in UTF-8") from exc
    return f"data/{name}"


def _store(path: Path, source: bytes | BinaryIO, name: str) -> tuple[int, str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        return _put(path, iter(lambda: stream.read(BLOCK), b""))
    except (FileExistsError, NotADirectoryError) as exc:
        raise UsageError(f"{name!r}: expected a path of its own, found it twice or as a folder too") from exc


def _put(path: Path, blocks: Iterable[bytes]) -> tuple[int, str]:
    """Write a new file and force it to the disk; gives its size and SHA-512."""
    digest, size = hashlib.sha512(), 0
    with path.open("xb") as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _manifest(digests: Mapping[str, str]) -> Iterator[bytes]:
    """A line for each file, by their names."""
    names = digests if isinstance(digests, Spilled) else sorted(digests)
    return (f"{digests[name]}  {_encoded(name)}\n".encode() for name in names)


def _encoded(path: str) -> str:
    """
    A path as a manifest writes it: per cent sign, CR and LF percent-encoded, those and no others (2.1.3).

    bagit-python 1.9 does not decode `%25`, and calls a bag with such a name invalid.
    """
    return path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _line(entry: tuple[str, str]) -> str:
    """A line of `bag-info.txt` (2.2.2); a value of several lines becomes one."""
    label, value = entry
    if not label or label != label.strip() or re.search(r"[:\r\n]", label):
        raise UsageError(f"{label!r}: expected a label without colon, line break and blanks around it")
    return f"{label}: {' '.join(str(value).split())}\n"
