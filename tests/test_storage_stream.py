"""Streams over stored objects: like a native file, in little memory, and of one version only."""

import csv
import dataclasses
import gc
import hashlib
import io
import os
import random
import threading
import time
import warnings
import weakref
import zipfile

import pytest
from faults import CuttingProxy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libsafe_nb import errors, readahead
from libsafe_nb.digests import digest
from libsafe_nb.storage import Storage

MIB = 1024 * 1024
# Long enough for several blocks of read-ahead, and no multiple of anything.
DATA = random.Random(1).randbytes(37 * MIB + 4321)


@pytest.fixture(scope="module")
def place(platform):
    """One stored object for the tests that only read it."""
    from libsafe_nb.connection import connect

    connection = connect(settings=platform.settings)
    container = str(connection.client.create_container("streams")["id"])
    connection.storage.put(container, "data.bin", DATA)
    return connection.storage, container


@pytest.fixture
def stream(place):
    storage, container = place
    with storage.open(container, "data.bin") as opened:
        yield opened


def readers():
    return [each for each in threading.enumerate() if each.name == "read-ahead"]


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def through(storage, proxy, **options):
    return Storage(dataclasses.replace(storage.settings, endpoint=proxy.endpoint), **options)


@pytest.mark.parametrize("size", [1000, 65536, MIB, 8 * MIB, 8 * MIB + 1, 100 * MIB])
def test_it_reads_in_order_whatever_the_size_asked_for(stream, size):
    parts = list(iter(lambda: stream.read(size), b""))

    assert b"".join(parts) == DATA
    assert {len(part) for part in parts[:-1]} <= {size}
    assert stream.tell() == stream.size == len(DATA)
    assert stream.read(1) == b""


def test_it_is_a_file_to_the_standard_library(place):
    storage, container = place
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.csv", "id,title\n1,x\n")
        archive.writestr("b.bin", DATA[: 3 * MIB])
    storage.put(container, "a.zip", target.getvalue())
    storage.put(container, "lines.csv", b"".join(b"%d,line\n" % n for n in range(20000)))

    with storage.open(container, "a.zip") as opened, zipfile.ZipFile(opened) as archive:
        assert archive.read("b.bin") == DATA[: 3 * MIB]
    with storage.open(container, "lines.csv") as opened:
        rows = list(csv.reader(io.TextIOWrapper(opened)))
        assert rows[19999] == ["19999", "line"]
    with storage.open(container, "lines.csv") as opened:
        assert sum(1 for _ in opened) == 20000
    with storage.open(container, "data.bin") as opened, io.BufferedReader(opened) as buffered:
        assert buffered.read() == DATA


def test_digest_reads_it_once_with_all_algorithms(stream):
    found = digest(stream, "md5", "sha1", "sha256")

    assert found == {name: hashlib.new(name, DATA).hexdigest() for name in ("md5", "sha1", "sha256")}


places = st.integers(min_value=-2 * MIB, max_value=len(DATA) + MIB)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(min_value=0, max_value=5 * MIB)),
        st.tuples(st.just("read"), st.integers(min_value=0, max_value=200)),
        st.tuples(st.just("seek"), places, st.sampled_from([0, 1, 2])),
        st.tuples(st.just("seek"), st.integers(min_value=0, max_value=MIB), st.just(1)),
        st.tuples(st.just("readinto"), st.integers(min_value=1, max_value=100_000)),
        st.tuples(st.just("peek"), st.just(10)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_it_does_what_a_file_does(place, steps):
    """Any sequence of calls answers as it does on the same bytes in memory."""
    storage, container = place
    memory = io.BytesIO(DATA)
    with storage.open(container, "data.bin") as opened:
        for what, *arguments in steps:
            if what == "peek":
                ahead = opened.peek(*arguments)
                assert ahead == DATA[opened.tell() : opened.tell() + len(ahead)]
            elif what == "readinto":
                ours, theirs = bytearray(*arguments), bytearray(*arguments)
                assert (opened.readinto(ours), ours) == (memory.readinto(theirs), theirs)
            elif what == "seek":
                base = [0, memory.tell(), len(DATA)][arguments[1]]
                if base + arguments[0] < 0:
                    with pytest.raises(ValueError, match="before the start"):
                        opened.seek(*arguments)
                else:
                    assert opened.seek(*arguments) == memory.seek(*arguments)
            else:
                assert opened.read(*arguments) == memory.read(*arguments)
            assert opened.tell() == memory.tell()


def test_a_look_at_the_header_fetches_little(place):
    storage, container = place
    fetched = []
    with storage.open(container, "data.bin") as opened:
        take = opened._source.take
        counting = dataclasses.replace(
            opened._source, take=lambda body, size: fetched.append(size) or take(body, size)
        )
        opened._source = counting
        assert opened.read(100) == DATA[:100]
        assert opened.read(100) == DATA[100:200]

        assert sum(fetched) <= 64 * 1024
        assert readers() == []


def test_sequential_reading_is_read_ahead_and_bounded(place):
    """While the reader works on one block, the next two arrive, and no third."""
    storage, container = place
    with storage.open(container, "data.bin") as opened:
        opened.read(2 * MIB)
        opened.read(MIB)
        wait_until(lambda: opened._ahead.here == readahead.AHEAD)

        assert len(readers()) == 1
        assert opened.read(MIB) == DATA[3 * MIB : 4 * MIB]
    wait_until(lambda: readers() == [])


def test_a_small_skip_is_read_through_and_a_large_one_reopened(place):
    storage, container = place
    with CuttingProxy(storage.settings.endpoint) as proxy:
        mine = through(storage, proxy)
        with mine.open(container, "data.bin") as opened:
            opened.read(1000)
            opened.seek(500_000, io.SEEK_CUR)
            assert opened.read(10) == DATA[501_000:501_010]
            assert proxy.connections == 1
            opened.seek(20 * MIB)
            assert opened.read(10) == DATA[20 * MIB : 20 * MIB + 10]
            assert proxy.connections == 2
        mine.close()


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("cut", [20_000, MIB, 7 * MIB])
def test_a_dropped_connection_is_taken_up_where_it_ended(place, cut, connections):
    storage, container = place
    with CuttingProxy(storage.settings.endpoint, cuts=[cut, cut, cut]) as proxy:
        mine = through(storage, proxy)
        with mine.open(container, "data.bin", connections=connections) as opened:
            assert digest(opened, "sha256")["sha256"] == hashlib.sha256(DATA).hexdigest()
        mine.close()

    assert proxy.cuts == []


def test_a_connection_that_drops_for_ever_is_given_up(place):
    """1,000 bytes are headers and next to no content; the error names the object and the byte."""
    storage, container = place
    with CuttingProxy(storage.settings.endpoint, cuts=[2 * MIB] + [1000] * 1000) as proxy:
        mine = through(storage, proxy, budget=2)
        with mine.open(container, "data.bin") as opened:
            with pytest.raises(
                errors.StorageUnreachable, match=r"data\.bin: the connection dropped .* at byte \d+"
            ):
                digest(opened, "md5")
            assert opened.tell() <= 3 * MIB
        mine.close()
    wait_until(lambda: readers() == [])


def test_an_object_that_changes_underneath_is_refused(storage_and_container):
    storage, container = storage_and_container
    storage.put(container, "a.bin", DATA[: 12 * MIB])
    with storage.open(container, "a.bin") as opened:
        opened.read(100)
        storage.put(container, "a.bin", DATA[: 12 * MIB][::-1])
        opened.seek(10 * MIB)
        with pytest.raises(errors.ObjectChanged, match="no longer the current one"):
            opened.read(100)


@pytest.mark.parametrize("connections", [1, 3])
def test_an_object_that_is_replaced_between_blocks_is_told_and_not_mixed(storage_and_container, connections):
    storage, container = storage_and_container
    data = DATA + DATA
    storage.upload(container, "a.bin", io.BytesIO(data))
    with storage.open(container, "a.bin", connections=connections) as opened:
        found = bytearray(opened.read(8 * MIB))
        storage.put(container, "a.bin", data[::-1])
        with pytest.raises(errors.ObjectChanged):
            read_on(opened, found)
        assert opened.tell() == len(found) < len(data)
        assert data.startswith(found)


def read_on(opened, found):
    while block := opened.read(8 * MIB):
        found += block


def test_an_empty_object_is_empty(storage_and_container):
    storage, container = storage_and_container
    storage.put(container, "empty", b"")
    with storage.open(container, "empty") as opened:
        assert (opened.size, opened.read(), opened.read(10), opened.seek(5), opened.read()) == (
            0,
            b"",
            b"",
            5,
            b"",
        )


def test_a_forked_process_reads_on_over_connections_of_its_own(place):
    storage, container = place
    with storage.open(container, "data.bin") as opened:
        assert opened.read(8 * MIB) == DATA[: 8 * MIB]
        receive, send = os.pipe()
        with warnings.catch_warnings():
            # Newer Pythons warn of forking beside threads, which is what is done here.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                os.write(send, b"y" if opened.read() == DATA[8 * MIB :] else b"n")
            finally:
                os._exit(0)
        rest = opened.read()
        assert os.read(receive, 1) == b"y"
        os.waitpid(child, 0)
        for end in (receive, send):
            os.close(end)
        assert rest == DATA[8 * MIB :]


def test_an_object_that_is_deleted_underneath_is_refused(storage_and_container):
    storage, container = storage_and_container
    storage.put(container, "a.bin", DATA[: 12 * MIB])
    with storage.open(container, "a.bin") as opened:
        opened.read(100)
        storage.delete(container, "a.bin")
        opened.seek(10 * MIB)
        with pytest.raises(errors.ObjectChanged, match="since it was opened"):
            opened.read(100)


def test_a_pinned_version_is_read_whatever_comes_after(storage_and_container):
    storage, container = storage_and_container
    first = storage.put(container, "a.bin", DATA[: 9 * MIB])
    storage.put(container, "a.bin", b"other")
    with storage.open(container, "a.bin", version_id=first.version_id) as opened:
        opened.seek(8 * MIB)
        storage.put(container, "a.bin", b"another")
        opened.seek(0)
        assert opened.read() == DATA[: 9 * MIB]


def test_a_forgotten_stream_closes_itself(place):
    """The vendor's sample never closes one; no thread, connection or warning may stay."""
    storage, container = place
    opened = storage.open(container, "data.bin")
    while opened.tell() < 4 * MIB:
        opened.read(MIB)
    assert len(readers()) == 1
    alive = weakref.ref(opened)

    del opened
    gc.collect()

    assert alive() is None
    wait_until(lambda: readers() == [])


def test_a_closed_stream_refuses(place):
    storage, container = place
    opened = storage.open(container, "data.bin")
    opened.close()
    opened.close()

    for act in (opened.read, opened.tell, opened.peek, lambda: opened.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            act()


def test_connections_are_used_again(storage_and_container):
    storage, container = storage_and_container
    storage.put(container, "small", b"x" * 10_000)
    with CuttingProxy(storage.settings.endpoint) as proxy:
        mine = through(storage, proxy)
        for _ in range(20):
            opened = mine.open(container, "small")
            assert opened.read(8 * MIB) == b"x" * 10_000
        mine.close()

        assert proxy.connections == 1


def test_memory_is_bounded_whatever_the_size(storage_and_container):
    """In a process of its own: peak memory grows by less than 40 MiB over 200 MiB read."""
    import subprocess
    import sys

    storage, container = storage_and_container
    block = os.urandom(MIB)

    class Repeated(io.RawIOBase):
        left = 200 * MIB

        def readable(self):
            return True

        def read(self, size=-1):
            size = min(size, self.left)
            self.left -= size
            return (block * (size // MIB + 1))[:size]

    storage.upload(container, "large", Repeated())
    code = """
import json, sys
from libsafe_nb.settings import S3Settings
from libsafe_nb.storage import Storage
settings, container = json.load(sys.stdin)
def most():
    # VmHWM, not ru_maxrss: that one is inherited from the process that started this one, and would never grow.
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
with Storage(S3Settings(**settings)).open(container, "large") as stream:
    start, peak = None, 0
    while stream.read(8 * 1024 * 1024):
        peak = most()
        start = start or peak
print(stream.size, peak - start)
"""
    import json

    given = json.dumps([dataclasses.asdict(storage.settings), container])
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True
    )
    size, grown = map(int, done.stdout.split())

    assert size == 200 * MIB
    assert grown < 40 * 1024


@pytest.fixture
def storage_and_container(connection, container):
    return connection.storage, container
