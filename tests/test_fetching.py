"""A stream over a body of the test's own: whatever is asked of it is what a file answers, and faults end truly."""

from __future__ import annotations

import io
import os
import random
import threading
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libsafe_nb import errors, fetching, objectstream, readahead
from libsafe_nb.fetching import Broken, Opened, Source
from libsafe_nb.objectstream import ObjectStream

DATA = random.Random(2).randbytes(300_000)
LINES = b"".join(b"%d," % n + b"x" * (n % 90) + b"\n" * (n % 3) for n in range(5000))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """All sizes a thousandth, so that many blocks and windows are few bytes."""
    for module, name, size in (
        (fetching, "LEAST", 1000),
        (fetching, "MOST", 16_000),
        (fetching, "SMALL", 64),
        (fetching, "CAREFUL", 256),
        (objectstream, "FIRST", 8000),
        (objectstream, "SMALL", 64),
        (objectstream, "SEQUENTIAL", 1000),
        (objectstream, "SKIP", 1000),
        (objectstream, "BLOCK", 8000),
        (readahead, "BLOCK", 8000),
    ):
        monkeypatch.setattr(module, name, size)


class Body:
    """As much of botocore's body as is used; `shutdown` wakes who waits for bytes."""

    def __init__(self, place, start, end):
        self.place, self.at, self.end = place, start, end
        # A GET that is open goes on with the version it was opened for.
        self.data = place.data
        self._raw_stream = self
        self.down = threading.Event()
        self.closed = False

    def read(self, size):
        while self.place.stuck.is_set() and not self.down.wait(0.01):
            pass
        if self.down.is_set():
            return b""
        if self.place.breaks and self.place.breaks[0] <= self.at:
            self.place.breaks.pop(0)
            raise Broken("reset") from OSError("reset by peer")
        end = min(self.at + size, self.end)
        if self.place.breaks:
            end = min(end, max(self.place.breaks[0], self.at + 1))
        found, self.at = self.data[self.at : end], end
        return found

    def shutdown(self):
        self.down.set()

    def close(self):
        self.closed = True


class Place:
    """An object of some bytes, and how reading it goes wrong."""

    def __init__(self, data, breaks=()):
        self.data, self.etag = data, "one"
        self.breaks = sorted(breaks)
        self.stuck = threading.Event()
        self.bodies = []

    def open(self, start, length, etag, stop):
        if etag is not None and etag != self.etag:
            raise errors.ObjectChanged("expected the object that was opened")
        end = min(start + length, len(self.data))
        self.bodies.append(Body(self, start, end))
        return Opened(self.bodies[-1], start, end, len(self.data), self.etag, None)

    def stream(self, **options):
        source = Source("place", self.open, lambda body, size: body.read(size), budget=5)
        return ObjectStream(source, **options)


def rest(stream, found):
    """Reads on into `found`, a bytearray."""
    while block := stream.read(8000):
        found += block


def readers():
    return [each for each in threading.enumerate() if each.name == "read-ahead" and each.is_alive()]


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 40_000)),
        st.tuples(st.just("read"), st.integers(0, 200)),
        st.tuples(st.just("readinto"), st.integers(0, 20_000)),
        st.tuples(st.just("readline"), st.sampled_from([-1, 0, 1, 50])),
        st.tuples(st.just("seek"), st.integers(0, 350_000)),
        st.tuples(st.just("skip"), st.integers(-5000, 5000)),
        st.tuples(st.just("end"), st.integers(-20_000, 100)),
    ),
    max_size=25,
)


@settings(max_examples=75, deadline=None)
@given(
    steps,
    st.sampled_from([DATA, LINES, DATA[:64], DATA[:65], b""]),
    st.sampled_from([1, 1, 3]),
    st.lists(st.integers(0, 300_000), max_size=3),
)
def test_any_sequence_of_calls_answers_as_the_bytes_do(steps, data, connections, breaks):
    """Also over connections that break, and by several at once."""
    place, memory = Place(data, breaks), io.BytesIO(data)
    with place.stream(connections=connections) as stream:
        for what, number in steps:
            if what == "seek":
                assert stream.seek(number) == memory.seek(number)
            elif what == "skip":
                to = max(memory.tell() + number, 0)
                assert stream.seek(to - stream.tell(), io.SEEK_CUR) == memory.seek(to)
            elif what == "end":
                to = max(len(data) + number, 0)
                assert stream.seek(to - len(data), io.SEEK_END) == memory.seek(to)
            elif what == "readinto":
                ours, theirs = bytearray(number), bytearray(number)
                assert (stream.readinto(ours), ours) == (memory.readinto(theirs), theirs)
            else:
                assert getattr(stream, what)(number) == getattr(memory, what)(number)
            assert stream.tell() == memory.tell()
    assert all(each.closed for each in place.bodies)
    wait_until(lambda: readers() == [])


@pytest.mark.parametrize("connections", [1, 4])
def test_at_most_so_many_blocks_are_fetched_before_they_are_asked_for(connections):
    place = Place(DATA)
    with place.stream(connections=connections) as stream:
        stream.read(8000)
        wait_until(lambda: stream._ahead.here == readahead.AHEAD + connections - 1)
        time.sleep(0.05)

        assert stream._ahead.here == readahead.AHEAD + connections - 1
        assert max(each.at for each in place.bodies) <= 8000 * (2 + readahead.AHEAD + connections - 1)


def test_reading_ahead_begins_with_a_first_large_read_and_not_with_a_look():
    with Place(DATA).stream() as stream:
        stream.read(100)
        assert readers() == []
    with Place(DATA).stream() as stream:
        stream.read(8000)
        assert len(readers()) == 1


@pytest.mark.parametrize("connections", [1, 4])
def test_an_object_replaced_between_blocks_is_told_and_never_mixed(connections):
    """What is read before the error are bytes of the version that was opened; the error stays."""
    place = Place(DATA)
    with place.stream(connections=connections) as stream:
        found = bytearray(stream.read(8000))
        place.data, place.etag = DATA[::-1], "two"
        with pytest.raises(errors.ObjectChanged):
            rest(stream, found)
        assert DATA.startswith(found)
        assert stream.tell() == len(found)
        stream.seek(200_000)
        with pytest.raises(errors.ObjectChanged):
            stream.read(10)


def test_an_error_comes_with_the_read_that_needs_the_block(monkeypatch):
    """Blocks before it are given out, the position stays, and another read tries again."""
    place = Place(DATA)
    monkeypatch.setattr(fetching.Patience, "pause", lambda *_, **__: None)
    with place.stream() as stream:
        assert stream.read(8000) == DATA[:8000]
        place.breaks = [30_000]
        found = bytearray()
        with pytest.raises(errors.StorageUnreachable, match="at byte 30000 of 300000"):
            rest(stream, found)
        assert (len(found), stream.tell()) == (16_000, 24_000)
        assert stream.read() == DATA[24_000:]


@pytest.mark.parametrize("ahead", [False, True])
def test_closing_while_a_block_is_being_read_ends_both(ahead):
    place = Place(DATA)
    stream = place.stream()
    if ahead:
        stream.read(8000)
        wait_until(lambda: stream._ahead.here == readahead.AHEAD)
    place.stuck.set()
    met = []

    def read():
        try:
            while stream.read(500):
                pass
        except ValueError as exc:
            met.append(str(exc))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.1)
    began = time.monotonic()
    stream.close()
    reader.join(10)

    assert not reader.is_alive()
    assert time.monotonic() - began < 5
    assert met == ["place: read of a closed stream"]
    wait_until(lambda: readers() == [] and all(each.closed for each in place.bodies))


def test_threads_take_turns():
    """Each byte goes to one of them; pieces are whole, and seeks of one do not tear the reads of another."""
    stream, pieces, lock = Place(DATA).stream(), [], threading.Lock()

    def read():
        while True:
            with lock:
                at = stream.tell()
                block = stream.read(777)
            if not block:
                return
            pieces.append((at, block))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert b"".join(block for _, block in sorted(pieces)) == DATA

    stream.seek(0)
    found, whole = [], set()

    def read_lines():
        while line := stream.readline():
            found.append(line)

    lines = Place(LINES).stream()
    stream.close()
    stream = lines
    threads = [threading.Thread(target=read_lines) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    whole = sorted(io.BytesIO(LINES).readlines())
    assert sorted(found) == whole
    lines.close()


def test_a_forked_process_reads_on_by_itself():
    """Neither ends nor disturbs the other's reading, wherever the fork comes."""
    place = Place(DATA)
    with place.stream() as stream:
        assert stream.read(20_000) == DATA[:20_000]
        receive, send = os.pipe()
        with warnings.catch_warnings():
            # Newer Pythons warn of forking beside threads, which is what is done here.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 1
            try:
                bodies = len(place.bodies)
                right = stream.read() == DATA[20_000:] and len(place.bodies) > bodies
                stream.close()
                right = right and not any(each.down.is_set() for each in place.bodies[:bodies])
                os.write(send, b"y" if right else b"n")
                status = 0
            finally:
                os._exit(status)
        assert os.read(receive, 1) == b"y"
        assert os.waitpid(child, 0)[1] == 0
        for end in (receive, send):
            os.close(end)
        assert stream.read() == DATA[20_000:]


def test_a_body_that_is_longer_than_was_asked_for_is_read_as_it_is():
    """A server that does not know ranges answers the whole object to the first GET."""
    place = Place(DATA)
    plain = place.open

    def whole(start, length, etag, stop):
        assert start == 0
        return plain(0, len(DATA), etag, stop)

    source = Source("place", whole, lambda body, size: body.read(size))
    with ObjectStream(source) as stream:
        assert stream.read() == DATA
    assert len(place.bodies) == 1


def test_a_look_or_a_line_that_fails_loses_no_byte(monkeypatch):
    """What had been taken for it before the connection dropped is there for the next call."""
    monkeypatch.setattr(fetching.Patience, "pause", lambda *_, **__: None)
    data = b"x" * 20_000 + b"\n" + b"y" * 20_000
    for call in (lambda each: each.peek(), lambda each: each.readline()):
        place = Place(data)
        with place.stream() as stream:
            # Ten bytes are left in the buffer; those behind them cannot be had.
            stream.peek()
            start = 54 if stream.read(54) else 0
            place.breaks = [64]
            with pytest.raises(errors.StorageUnreachable):
                call(stream)
            assert stream.tell() == start
            assert stream.read() == data[start:]
        place = Place(data)
        with place.stream() as stream:
            place.breaks = [19_000]
            with pytest.raises(errors.StorageUnreachable):
                stream.readline()
            assert stream.tell() == 0
            assert stream.readline() == data[:20_001]
