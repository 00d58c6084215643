"""
Files that a function writes: looked through as they pass, without being kept, whatever their size.
"""

from __future__ import annotations

from dataclasses import dataclass

from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.redact.wrappings import MAX_UNPACKED, Unwrapping

_BLOCK = 256 * 1024


@dataclass(frozen=True)
class FileScan:
    """
    What a file holds.

    `hits` are `(secret, form)`, each once. `undecidable` are wrappings that could not be opened. `not_checked` says in
    words what was not looked into, because the file is too large; it is empty for a file of up to 64 MiB.
    """

    size: int
    hits: tuple[tuple[str, str], ...]
    undecidable: tuple[str, ...]
    not_checked: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether no secret was found. What is undecidable or not checked is for the caller to judge and to record."""
        return not self.hits


class StreamScanner:
    """
    Takes the bytes of one file in pieces of any size: `feed` them, then `finish`.

    Every form of the secrets is looked for over the whole stream, also across the pieces: verbatim, escaped, base64,
    hex and the rest of `forms`. Up to `keep` bytes are kept in memory, to look into wrappings (gzip, zip, pickle,
    base64 of these …) at the end; of a larger file nothing is kept and `not_checked` says so.
    """

    def __init__(self, secrets: SecretSet, *, keep: int = MAX_UNPACKED) -> None:
        self._secrets = secrets
        self._keep = keep
        self._kept: bytearray | None = bytearray()
        self._pending = bytearray()
        self._overlap = 2 * secrets.reach
        self._size = 0
        self._hits: dict[tuple[str, str], None] = {}

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Look through the next bytes. Cheap for pieces of any size: they are gathered to 256 KiB first."""
        self._size += len(data)
        self._pending += data
        if self._kept is not None:
            if self._size > self._keep:
                self._kept = None
            else:
                self._kept += data
        if len(self._pending) >= _BLOCK + self._overlap:
            self._look()
            del self._pending[: len(self._pending) - self._overlap]

    @property
    def hits(self) -> tuple[tuple[str, str], ...]:
        """What was found so far: an upload can be given up before its end."""
        return tuple(self._hits)

    def finish(self) -> FileScan:
        """Look through the rest, and into the wrappings if the file was kept."""
        self._look()
        undecidable: tuple[str, ...] = ()
        not_checked: tuple[str, ...] = ()
        if self._kept is None:
            not_checked = (f"wrappings such as gzip, for the file is larger than {self._keep} bytes",)
        else:
            # Not two copies at once: a file of 64 MiB takes 200 MiB while it is looked into.
            data, self._kept = bytes(self._kept), bytearray()
            findings = Unwrapping(self._secrets).examine(data)
            self._hits |= dict.fromkeys(findings.secrets)
            undecidable = tuple(findings.undecidable)
        return FileScan(self._size, self.hits, undecidable, not_checked)

    def _look(self) -> None:
        data = bytes(self._pending)
        # Undoing escapes makes sense in text only. Other bytes of this number are never without a zero.
        text = None if b"\0" in data else data.decode("utf-8", "replace")
        for span in self._secrets.find_bytes(data) if text is None else self._secrets.find(text):
            self._hits[span.secret, span.form] = None
