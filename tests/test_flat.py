"""Memory does not grow with the number of files, links, records and messages."""

import gc
import json
import random
import tracemalloc
import uuid
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as some

from libsafe_nb import archive, bag, chain, chaincheck, checks, history
from libsafe_nb.checks import Check, Report
from libsafe_nb.spilled import Spilled
from libsafe_nb.verifying import NO_TRUST, check


def peak(work, count):
    """Bytes of Python's memory at its fullest during work on so many items."""
    gc.collect()
    # Beside all that the other tests left, what is new and in cycles would seldom be worth a collection.
    gc.freeze()
    # Of what is left, or it counts what is frozen still.
    gc.collect()
    tracemalloc.start()
    work(count)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    gc.unfreeze()
    return found


def check_flat(work, few, many, most):
    """With each further item, from `few` to `many` of them, memory grows by less than `most` bytes."""
    work(few)
    for _ in range(2):
        grown = (peak(work, many) - peak(work, few)) / (many - few)
        # At some time Python's own table of interned strings (3.11: all names of files) is made larger, by megabytes.
        if grown < most:
            break
    assert grown < most


def drain(things):
    return deque(things, maxlen=0)


@given(some.dictionaries(some.text(some.characters(), max_size=5), some.integers()))
def test_what_is_spilled_is_a_mapping(expected):
    found = Spilled()
    found.update(expected)

    assert dict(found) == expected
    assert list(found) == sorted(expected, key=lambda name: name.encode("utf-8", "surrogatepass"))
    assert len(found) == len(expected)
    assert bool(found) == bool(expected)
    for name in expected:
        assert found.pop(name) == expected[name]
        assert name not in found
        assert found.get(name) is None
    assert not found
    with pytest.raises(KeyError):
        del found["x"]


def test_what_is_spilled_is_not_in_memory():
    def fill(count):
        return Spilled(uuid.UUID(int=random.getrandbits(128)).hex for _ in range(count))

    check_flat(fill, 200, 20_000, most=1)


def test_what_is_added_and_removed_meanwhile_does_not_disturb():
    found = Spilled(f"{number:05d}" for number in range(3000))
    seen = []
    for name in found:
        del found[name]
        seen.append(name)

    assert seen == [f"{number:05d}" for number in range(3000)]
    assert not found


def test_a_long_listing_is_iterated_in_flat_memory(connection):
    containers = {}
    for count in (2000, 12_000):
        container = containers[count] = connection.client.create_container("flat")["id"]
        rows = ({"path": f"/{number:06d}.txt", "size": 1} for number in range(count))
        assert connection.client.import_files(container, rows) == count

    def listed(count):
        assert sum(1 for _ in connection.client.files(containers[count])) == count

    def found(count):
        conditions = [{"property": "container_id", "operator": "eq", "value": containers[count]}]
        assert sum(1 for _ in connection.client.search(conditions)) == count

    check_flat(listed, *containers, most=10)
    check_flat(found, *containers, most=10)


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """Copies of containers with so many runs each: links, records that say nothing else, and start records."""

    def life(count):
        root = tmp_path_factory.mktemp("lives") / str(count)
        prev = None
        for name in ("chain", "started", "f"):
            (root / "provenance" / name).mkdir(parents=True)
        for seq in range(1, count + 1):
            run = str(uuid.UUID(int=seq))
            folder = f"provenance/f/20260101T{seq:06d}000Z-job{seq}"
            body = json.dumps({"id": f"urn:uuid:{run}"}).encode()
            files = {"record.json": body, "SHA256SUMS": b""}
            (root / folder).mkdir()
            (root / folder / "record.json").write_bytes(body)
            (root / "provenance/started" / f"{uuid.UUID(int=seq + count)}.json").write_bytes(b"{}")
            data = chain.content(seq, prev, run=run, prefix=folder, files=files)
            prev = chaincheck.record.digest(data)
            (root / chain.path(seq)).write_bytes(data)
        return root

    return {count: life(count) for count in (200, 2200)}


def test_a_long_chain_is_verified_in_flat_memory(lives):
    def read(count):
        found = chaincheck.Chain()
        assert {each.result for each in found.read(archive.local(lives[count]), trust=NO_TRUST)} == {"ok"}
        assert len(found.links) == len(found.digests) == count

    # The names of a folder of this disk are sorted in memory.
    check_flat(read, *lives, most=150)


def test_a_container_of_many_runs_is_verified_in_flat_memory(lives):
    def verify(count):
        drain(check(archive.local(lives[count])))

    check_flat(verify, *lives, most=250)


def test_a_long_history_is_told_in_flat_memory(lives):
    def tell(count):
        assert Counter(each.status for each in history.runs(archive.local(lives[count])))["begun"] == count

    check_flat(tell, *lives, most=250)


def test_a_bag_of_many_files_is_written_in_flat_memory(tmp_path):
    def write(count):
        files = ((f"{number % 7}/{number:05d}.txt", b"x") for number in range(count))
        assert bag.make(tmp_path / uuid.uuid4().hex, files, info={}) == count

    check_flat(write, 100, 1100, most=100)


def test_a_report_holds_so_many_checks_and_counts_the_rest(monkeypatch):
    monkeypatch.setattr(checks, "KEPT", 3)
    many = [Check("chain", "not-checked", str(number)) for number in range(5)]

    found = Report.of("12", [Check("sums", "ok", "a"), *many])
    worse = Report.of("12", [*many, Check("chain", "missing", "b")])
    folder = Report.of("12", [Check("sums", "ok", "a"), *[Check(checks.FOLDER, "not-checked", "f")] * 4])

    assert [each.place for each in found.checks] == ["0", "1", "2"]
    assert (found.left_out, found.exit_code, found.to_json()["left_out"]) == (2, 5, 2)
    assert (worse.left_out, worse.exit_code) == (3, 1)
    assert folder.exit_code == 5
