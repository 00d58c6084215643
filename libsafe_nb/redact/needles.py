"""
Whether a folded text holds one of hundreds of needles: the question asked of every byte, and nearly always answered no.

A text is read at every 8th, 16th, 24th … byte as one 8-byte number, and the numbers are looked up in a set: any
needle that is long enough must show one of its numbers at one of these places. Needles that are too short for that are
searched for one by one.

Where numpy is loaded, every 8th byte is read and a bit for each number is looked up in one step: 0.5 ms/MB, where the
set takes 2 to 4. papermill loads it; a kernel that does not is not made to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

_GRAM = 8
_STRIDES = range(1, 9)
_BITS = 18
_BLOCK = 1 << 15
"""Numbers that are looked up in one step: with all that is made of them they fit into a processor's cache."""
_SPREAD = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: multiplying by it spreads neighbouring numbers (Knuth, TAOCP 6.4)."""


class Needles:
    """
    Parameters
    ----------
    needles
        What is looked for.
    short, long
        The same further needles twice: as they are, and each with all that can stand beside it, so that it has 15
        bytes and need not be searched for one by one.
    """

    def __init__(
        self, needles: list[bytes], *, short: Iterable[bytes] = (), long: Iterable[bytes] = ()
    ) -> None:
        plain = [*needles, *short]
        self._plain = _Sampling(plain, stride=min(_STRIDES, key=lambda stride: _cost(plain, stride)))
        self._dense = _Sampling([*needles, *long], stride=1)
        self._bits: Any = None

    def any_in(self, folded: bytes) -> bool:
        """Whether one of the needles is in the text."""
        if "numpy" in sys.modules:
            return self._dense.any_in(folded, self._shows_with_numpy)
        return self._plain.any_in(folded, self._plain.shows)

    def _shows_with_numpy(self, folded: bytes) -> bool:
        import numpy

        spread, shift = numpy.uint64(_SPREAD), numpy.uint64(64 - _BITS)
        if self._bits is None:
            bits = numpy.zeros(1 << _BITS, dtype=bool)
            bits[(numpy.array(sorted(self._dense.grams), dtype=numpy.uint64) * spread) >> shift] = True
            self._bits = bits
        text = numpy.frombuffer(folded, dtype=numpy.uint64, count=len(folded) // _GRAM)
        for start in range(0, len(text), _BLOCK):
            words = text[start : start + _BLOCK]
            places = words * spread
            places >>= shift
            known = self._bits.take(places.view(numpy.int64), mode="wrap")
            if known.any() and not self._dense.grams.isdisjoint(words[known].tolist()):
                return True
        return False


class _Sampling:
    """
    The numbers of those needles that are long enough for this stride, and the needles that are not.

    Of `8 * stride` neighbouring places in a needle exactly one falls on a place that is looked at, so that many
    numbers of each needle are enough. Looking seldom is cheap, but leaves more needles to be searched one by one.
    """

    def __init__(self, needles: Iterable[bytes], *, stride: int) -> None:
        shortest = _GRAM * stride + _GRAM - 1
        found = sorted(set(needles))
        self.stride = stride
        self.sampled = [needle for needle in found if len(needle) >= shortest]
        self.direct = [needle for needle in found if len(needle) < shortest]
        self.grams = frozenset(
            int.from_bytes(needle[place : place + _GRAM], sys.byteorder)
            for needle in self.sampled
            for place in range(_GRAM * stride)
        )

    def any_in(self, folded: bytes, shows: Any) -> bool:
        if any(needle in folded for needle in self.direct):
            return True
        return shows(folded) and any(needle in folded for needle in self.sampled)

    def shows(self, folded: bytes) -> bool:
        """Whether a number of a needle stands at a place that is looked at."""
        words = memoryview(folded)[: len(folded) // _GRAM * _GRAM].cast("Q")
        return not self.grams.isdisjoint(words[:: self.stride])


def _cost(needles: Iterable[bytes], stride: int) -> float:
    """ms/MB of looking and of searching the rest one by one, measured together."""
    alone = (len(needle) for needle in needles if len(needle) < _GRAM * stride + _GRAM - 1)
    return 4.2 / stride + sum(0.1 + 2 / length for length in alone)
