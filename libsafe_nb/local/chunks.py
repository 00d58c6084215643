"""Bodies that come in chunks: where one ends, and the next request's head begins."""

from __future__ import annotations

import re

from libsafe_nb.local.gate import Refused


class ChunkedBody:
    """Finds the end of a body sent with `Transfer-Encoding: chunked`, strictly, without keeping any of it."""

    _SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(;[\t\x20-\x7e]{0,1024})?")
    _TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*")
    _MAX_TRAILERS = 16 * 1024

    def __init__(self) -> None:
        self.ended = False
        self._data = 0  # bytes still to come of this chunk, its CRLF included
        self._trailers = -1  # bytes of trailers seen; -1 before the last chunk

    def take(self, waiting: bytearray) -> int:
        """How many of the bytes belong to the body, as far as can be said; sets `ended` at its end."""
        taken = 0
        while taken < len(waiting) and not self.ended:
            if self._data > 2:
                count = min(len(waiting) - taken, self._data - 2)
                self._data -= count
                taken += count
            elif self._data:
                # The CRLF that closes a chunk's bytes, looked at when both are there.
                if len(waiting) - taken < 2:
                    break
                if waiting[taken : taken + 2] != b"\r\n":
                    raise Refused(400, "InvalidRequest", "a chunk does not end where its size says")
                taken += 2
                self._data = 0
            else:
                end = waiting.find(b"\r\n", taken, taken + 2048)
                if end < 0:
                    if len(waiting) - taken >= 2048:
                        raise Refused(400, "InvalidRequest", "a chunk's size line is too long")
                    break
                self._take_line(bytes(waiting[taken:end]))
                taken = end + 2
        return taken

    def _take_line(self, line: bytes) -> None:
        if self._trailers >= 0:
            self._trailers += len(line) + 2
            if not line:
                self.ended = True
            elif not self._TRAILER.fullmatch(line) or self._trailers > self._MAX_TRAILERS:
                raise Refused(400, "InvalidRequest", "the trailers are malformed or too long")
            return
        found = self._SIZE.fullmatch(line)
        if not found:
            raise Refused(400, "InvalidRequest", "a chunk's size is malformed")
        size = int(found[1], 16)
        if size:
            self._data = size + 2
        else:
            self._trailers = 0
