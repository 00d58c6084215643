"""
The bytes of a file that a function writes, looked through for the run's keys on their way out.

    seekable    read once for digest and scan, once more to be sent: a hit is known before the first byte leaves
    a pipe      read once; a hit gives the upload up before it is completed, so that no version appears
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO

from libsafe_nb.errors import SecretFound
from libsafe_nb.redact import SecretSet, StreamScanner
from libsafe_nb.redact.derived import NAME as DERIVED


class Scanned:
    """
    A binary stream that is scanned while it is read, as far as `Storage.upload` reads it.

    The end of the stream is not given out before the whole of it has been judged. After that it may be read again,
    unscanned: the storage compares the digests of what it reads first and what it sends.

    Parameters
    ----------
    where
        The file's container and path, for the error.
    allowed
        Keys in it are noted and let through.

    Raises
    ------
    SecretFound
        From a read: a key of the run stands in the bytes.
    """

    def __init__(self, source: BinaryIO, secrets: SecretSet, *, where: str, allowed: bool) -> None:
        self._source, self._secrets, self._where, self._allowed = source, secrets, where, allowed
        self._scanner = StreamScanner(secrets)
        self.found: dict[str, Any] | None = None
        """What the scan found, as the run is told it; None as long as the end was not reached."""

    def seekable(self) -> bool:
        return self._source.seekable()

    def tell(self) -> int:
        return self._source.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        if self.found is None:
            self._scanner = StreamScanner(self._secrets)
        return self._source.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        if self.found is None:
            if data:
                self._scanner.feed(data)
                self._refuse(self._scanner.hits)
            if size < 0 or (not data and size):
                scan = self._scanner.finish()
                self._refuse(scan.hits)
                self.found = {
                    "found": [{"name": name, "form": form} for name, form in scan.hits],
                    "undecidable": list(scan.undecidable),
                    "not_checked": list(scan.not_checked),
                }
        return data

    def _refuse(self, hits: Iterable[tuple[str, str]]) -> None:
        if not self._allowed:
            refuse(hits, self._where, unless="; allow_secrets=True stores it all the same")


def refuse(hits: Iterable[tuple[str, str]], where: str, *, unless: str = "") -> None:
    """
    Raise for the first form of a known key.

    A token that was made from some key, such as the signature of a presigned URL, is no reason: an archive holds web
    pages full of them, and one of this run's is worthless in a week. It is told to the run.
    """
    for name, form in hits:
        if name != DERIVED:
            raise SecretFound(
                f"{where}: not stored, for it holds the key {name} ({form}){unless}",
                name=name,
                form=form,
                where=where,
            )
