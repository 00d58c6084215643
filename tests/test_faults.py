"""The real local platform behind a proxy that spoils calls: all is done, once, and no fault becomes a wrong answer."""

import dataclasses
import hashlib
import io
import os
import random
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import ALL, FAULTS, FaultyProxy

import libsafe_nb
from libsafe_nb import errors, s3wire
from libsafe_nb.client import Client
from libsafe_nb.storage import Storage

MIB = 1024 * 1024
ROOT = Path(__file__).parent.parent
HERE = {"rest": [], "s3": []}
for name, fault in FAULTS.items():
    for kind in HERE:
        if fault.only in (None, kind):
            HERE[kind].append(name)


def rest(platform, **options):
    """A faulty proxy in front of REST, to be entered."""
    return FaultyProxy(platform.settings.url, **options)


def s3(platform, **options):
    return FaultyProxy(platform.settings.s3.endpoint, **options)


def client_of(platform, proxy, **options):
    return Client(proxy.url, platform.settings.key_user, **options)


def storage_of(platform, proxy, **options):
    return Storage(dataclasses.replace(platform.settings.s3, endpoint=proxy.endpoint), **options)


def told(proxy, calls, start):
    print(
        f"{proxy.kind}: {calls} calls, {proxy.requests} requests, {proxy.injected.total()} faults in"
        f" {time.monotonic() - start:.1f} s: {dict(proxy.injected.most_common())}"
    )


# The proxy itself: a test over a proxy that spoils what it should pass on would prove nothing.


def test_an_honest_proxy_changes_nothing(platform, connection, container):
    with s3(platform, share=0.0) as proxy, rest(platform, share=0.0) as other:
        storage = storage_of(platform, proxy)
        data = os.urandom(17 * MIB)
        storage.upload(container, "a.bin", io.BytesIO(data))
        with client_of(platform, other) as client:
            assert client.file_by_path(container, "a.bin")["size"] == len(data)
        # A file-like body makes botocore ask first (`Expect: 100-continue`).
        storage.connected.put_object(Bucket=storage.bucket, Key=f"{container}/b", Body=io.BytesIO(data))
        assert storage.get(container, "a.bin") == storage.get(container, "b") == data
        storage.close()

        assert (proxy.injected.total(), other.injected.total()) == (0, 0)
    assert not [each for each in threading.enumerate() if each.name == "faulty-proxy"]


def test_the_proxy_can_really_refuse(platform):
    """The kernel refuses: nobody listens. It listens again by itself, at the same port."""
    with rest(platform, share=0.0) as proxy:
        proxy.refuse_for(0.5)
        time.sleep(0.05)
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"{proxy.url}/health")
        time.sleep(0.6)
        assert urllib.request.urlopen(f"{proxy.url}/health").status == 200


def test_the_same_seed_spoils_the_same_calls(platform):
    def faults(seed):
        with (
            rest(platform, seed=seed, share=0.5, faults=["500 before it acted", "429"]) as proxy,
            client_of(platform, proxy) as client,
        ):
            for _ in range(10):
                client.me()
            return proxy.requests, proxy.injected

    assert faults(1) == faults(1) != faults(2)


# Each fault alone, for a while.


@pytest.fixture
def hasty(monkeypatch):
    """Pauses begin at 5 ms."""
    monkeypatch.setattr("libsafe_nb.patience.FIRST", 0.005)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", HERE["rest"])
def test_rest_rides_out(platform, connection, container, fault):
    """Two in a row at each call; every write acts once, with its first answer."""
    job = connection.client.create_job(container)["id"]
    with (
        rest(platform, share=1.0, faults=[fault], limit=2, slow=0.1, busy=0) as proxy,
        client_of(platform, proxy) as client,
    ):
        said = client.message(job, "hello")
        proxy.limit += 2
        read = list(client.messages(job))
        proxy.limit += 2
        client.update_job(job, status="COMPLETED", result={"n": 1})
        assert proxy.injected.total() == 6 if fault not in ("slow", "skewed date") else 3

    assert [each["id"] for each in read] == [said["id"]]
    assert [each["message"] for each in connection.client.messages(job)] == ["hello"]
    assert connection.client.job(job)["result"] == {"n": 1}


@pytest.fixture(scope="module")
def wire(platform):
    """A proxy that is honest until it gets faults and a limit, and a storage behind it: making one takes 0.3 s."""
    with s3(platform, share=1.0, limit=0, slow=0.1, busy=0) as proxy:
        storage = storage_of(platform, proxy)
        yield proxy, storage
        storage.close()


@pytest.fixture
def spoilt(wire, hasty, monkeypatch):
    """Lets each call meet a fault twice, or for ever; the parts of uploads are small."""
    proxy, storage = wire
    monkeypatch.setattr("libsafe_nb.multipart.PART", 5 * MIB)

    def act(fault, call, *, times=2):
        with proxy._lock:
            proxy.faults, proxy.limit = [fault], proxy.injected.total() + times
        return call(storage)

    yield act
    with proxy._lock:
        proxy.limit = 0
    storage.budget = 60.0


@pytest.mark.parametrize("fault", HERE["s3"])
def test_s3_rides_out(connection, container, spoilt, wire, fault):
    """Two in a row at each call: no second version, no second delete marker, no empty listing."""
    before, data = wire[0].injected[fault], bytes(range(256)) * 20_481  # two parts

    def act(name, *arguments, **options):
        return spoilt(fault, lambda storage: getattr(storage, name)(container, *arguments, **options))

    put = act("put", "put", b"one")
    once = act("put", "once", b"one", if_none_match=True)
    again = act("put", "put", b"two", if_match=put.etag)
    free = act("put", "put", b"three")
    parts = spoilt(fault, lambda storage: storage.upload(container, "parts", io.BytesIO(data)), times=1)
    found = act("head", "put")
    listed = spoilt(fault, lambda storage: [each.path for each in storage.list(container)])
    versions = spoilt(fault, lambda storage: [each.version_id for each in storage.versions(container, "put")])
    read = act("get", "parts")
    with pytest.raises(errors.ObjectNotFound):
        act("get", "absent")
    with pytest.raises(errors.PreconditionFailed):
        act("put", "once", b"other", if_none_match=True)
    act("delete", "once")

    assert wire[0].injected[fault] - before >= 12
    assert (found.version_id, found.size) == (free.version_id, 5)
    assert listed == ["once", "parts", "put"]
    assert versions == [free.version_id, again.version_id, put.version_id]
    assert read == data
    honest = connection.storage
    assert [each.deleted for each in honest.versions(container, "once")] == [True, False]
    assert honest.get(container, "once", version_id=once.version_id) == b"one"
    assert [each.version_id for each in honest.versions(container, "parts")] == [parts.version_id]
    assert [each.version_id for each in honest.versions(container, "put")] == versions


LASTING = ("slow", "skewed date")
"""No fault when it lasts: such answers are right."""


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", [each for each in HERE["rest"] if each not in LASTING])
def test_rest_gives_up_with_what_it_found(platform, fault):
    start = time.monotonic()
    with (
        rest(platform, share=1.0, faults=[fault]) as proxy,
        client_of(platform, proxy, budget=0.05) as client,
        pytest.raises(errors.PlatformError) as caught,
    ):
        client.me()

    answered = fault.startswith(("page", "half", "refused in"))
    assert type(caught.value) is (errors.PlatformError if answered else errors.Unreachable)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("fault", [each for each in HERE["s3"] if each not in LASTING])
def test_s3_gives_up_with_what_it_found(container, connection, spoilt, wire, fault):
    """And never with an answer: no object that is not there, no listing without objects, no put that did not act."""
    connection.storage.put(container, "a", b"x")
    wire[1].budget = 0.05
    start = time.monotonic()
    calls = {
        "get": lambda storage: storage.get(container, "a"),
        "head": lambda storage: storage.head(container, "a"),
        "put": lambda storage: storage.put(container, "b", b"x"),
        "list": lambda storage: list(storage.list(container)),
        "delete": lambda storage: storage.delete(container, "a"),
    }
    kinds = {}
    for name, call in calls.items():
        with pytest.raises(errors.StorageError) as caught:
            spoilt(fault, call, times=1000)
        kinds[name] = type(caught.value)

    if fault == "time too skewed":
        # To a HEAD nobody can say why it is refused.
        assert kinds.pop("head") is errors.AccessDenied
        assert set(kinds.values()) == {errors.StorageError}
    elif fault.startswith(("page", "half")) or fault == "truncated to nothing":
        assert set(kinds.values()) <= {errors.StorageError, errors.StorageUnreachable}
    else:
        assert set(kinds.values()) == {errors.StorageUnreachable}
    assert time.monotonic() - start < 15


# Many calls, a fifth of them spoilt.


class Ledger:
    """What was done over REST, to be compared with what is there."""

    def __init__(self, connection, container, seed):
        self.random = random.Random(seed)
        self.honest, self.container = connection, container
        self.files = {}
        for number in range(5):
            connection.storage.put(container, f"f{number}", b"%d" % number)
            self.files[connection.client.file_by_path(container, f"f{number}")["id"]] = {}
        self.jobs, self.uploads = {}, {}
        self.titles = dict.fromkeys(self.files)

    def act(self, client, number):
        """One call, checked where it answers something."""
        calls = ["job", "say", "say", "say", "many", "hash", "title", "progress", "list", "upload"]
        what = self.random.choice(calls)
        job = self.random.choice(list(self.jobs)) if self.jobs else None
        file = self.random.choice(list(self.files))
        if what == "job" or job is None:
            self.jobs[client.create_job(self.container, name=f"job {number}")["id"]] = []
        elif what == "say":
            assert client.message(job, f"m{number}")["message"] == f"m{number}"
            self.jobs[job].append(f"m{number}")
        elif what == "many":
            texts = [f"m{number}.{each}" for each in range(3)]
            client.message_many(job, [{"type": "INFO", "message": text} for text in texts])
            self.jobs[job] += texts
        elif what == "hash":
            self.files[file]["md5"] = hashlib.md5(b"%d" % number).hexdigest()
            client.set_hash(file, "md5", self.files[file]["md5"])
        elif what == "title":
            self.titles[file] = (self.titles[file] or []) + [f"t{number}"]
            client.set_metadata(file, [{"iecode": "relation", "value": [f"t{number}"], "action": "add"}])
        elif what == "upload":
            data = self.random.randbytes(2500)
            self.uploads[f"u{number}"] = data
            assert client.upload_file(self.container, io.BytesIO(data), name=f"u{number}")["size"] == 2500
        elif what == "progress":
            assert client.update_job(job, progress=number / 1000)["progress"] == number / 1000
        else:
            assert [each["message"] for each in client.messages(job)] == self.jobs[job]

    def check(self):
        client = self.honest.client
        for job, messages in self.jobs.items():
            assert [each["message"] for each in client.messages(job)] == messages
        assert {each["id"] for each in client.jobs(container=self.container)} == set(self.jobs)
        for file, hashes in self.files.items():
            assert client.file(file)["hashes"] == hashes
            known = {each["iecode"]: each["value"] for each in client.metadata(file) or ()}
            assert known.get("relation") == self.titles[file]
        for name, data in self.uploads.items():
            assert self.honest.storage.get(self.container, name) == data


def mixed_rest(platform, connection, *, calls, seed, **options):
    container = connection.client.create_container("ledger")["id"]
    ledger, start = Ledger(connection, container, seed), time.monotonic()
    with rest(platform, seed=seed, **options) as proxy, client_of(platform, proxy) as client:
        for number in range(calls):
            ledger.act(client, number)
        told(proxy, calls, start)
        assert proxy.injected.total() > calls * proxy.share / 2
    ledger.check()


SIZES = (0, 1, 1000, 1000, 70_000, 70_000, MIB, MIB, MIB, 5 * MIB, 11 * MIB)


class Shelf:
    """What was stored, to be compared with what is there."""

    def __init__(self, connection, container, seed):
        self.random = random.Random(seed)
        self.honest, self.container = connection.storage, container
        self.there, self.deleted = {}, {}
        self.block = self.random.randbytes(11 * MIB + 1000)

    def data(self):
        start = self.random.randrange(1000)
        return self.block[start : start + self.random.choice(SIZES)]

    def act(self, storage, number):
        weights = {"once": 5, "put": 3, "upload": 4, "piped": 1, "get": 5, "seek": 4, "delete": 2}
        weights |= {"list": 3, "versions": 3, "head": 3, "lose": 2, "absent": 1}
        what = self.random.choices(list(weights), list(weights.values()))[0]
        path = self.random.choice(list(self.there)) if self.there else None
        if path is None or what in ("once", "put", "upload", "piped"):
            self._store(storage, what, f"o{number}", self.data())
        elif what == "get":
            assert storage.get(self.container, path) == self.there[path]
        elif what == "seek":
            self._seek(storage, path)
        elif what == "delete":
            storage.delete(self.container, path)
            self.deleted[path] = self.there.pop(path)
        elif what == "list":
            assert [(each.path, each.size) for each in storage.list(self.container)] == [
                (path, len(self.there[path])) for path in sorted(self.there)
            ]
        elif what == "versions":
            found = [each.path for each in storage.versions(self.container) if not each.deleted]
            assert found == sorted([*self.there, *self.deleted])
        elif what == "head":
            assert storage.head(self.container, path).size == len(self.there[path])
        elif what == "lose":
            with pytest.raises(errors.PreconditionFailed):
                storage.put(self.container, path, b"another one's", if_none_match=True)
        else:
            assert not storage.exists(self.container, f"absent{number}")

    def _store(self, storage, what, path, data):
        if what == "once":
            stored = storage.put(self.container, path, data, if_none_match=True)
        elif what == "upload":
            stored = storage.upload(self.container, path, io.BytesIO(data))
        elif what == "piped":
            source = io.BytesIO(data)
            source.seekable = lambda: False
            stored = storage.upload(self.container, path, source)
        else:
            stored = storage.put(self.container, path, data)
        assert stored.sha256 == hashlib.sha256(data).hexdigest()
        self.there[path] = data

    def _seek(self, storage, path):
        memory = io.BytesIO(self.there[path])
        with storage.open(self.container, path) as stream:
            for _ in range(3):
                at, size = self.random.randrange(len(self.there[path]) + 1), self.random.randrange(3 * MIB)
                assert stream.seek(at) == memory.seek(at)
                assert stream.read(size) == memory.read(size)

    def check(self):
        versions = {}
        for each in self.honest.versions(self.container):
            versions.setdefault(each.path, []).append(each.deleted)
        assert versions == {path: [False] for path in self.there} | {
            path: [True, False] for path in self.deleted
        }
        for path, data in self.there.items():
            assert self.honest.get(self.container, path) == data


def mixed_s3(platform, connection, *, calls, seed, **options):
    container = connection.client.create_container("shelf")["id"]
    shelf, start = Shelf(connection, container, seed), time.monotonic()
    with s3(platform, seed=seed, **options) as proxy:
        storage = storage_of(platform, proxy)
        for number in range(calls):
            shelf.act(storage, number)
        told(proxy, calls, start)
        storage.close()
        assert proxy.injected.total() > calls * proxy.share / 2
    shelf.check()


@pytest.mark.usefixtures("hasty")
def test_150_calls_over_rest_act_once(platform, connection, monkeypatch):
    monkeypatch.setattr("libsafe_nb.client.CHUNK", 1000)
    mixed_rest(platform, connection, calls=150, seed=1, slow=0.3, busy=0)


@pytest.mark.usefixtures("hasty")
def test_150_calls_over_s3_act_once(platform, connection, monkeypatch):
    monkeypatch.setattr("libsafe_nb.multipart.PART", 5 * MIB)
    mixed_s3(platform, connection, calls=150, seed=1, slow=0.3, busy=0)


@pytest.mark.usefixtures("hasty")
def test_one_of_sixteen_wins_a_conditional_put_whatever_gets_lost(platform, connection, container):
    """The winner whose answer was lost knows that it won, and no loser believes so."""
    with s3(platform, seed=1, share=0.3, slow=0.1, busy=0) as proxy:
        storage = storage_of(platform, proxy)

        def race(place):
            link, number = place
            try:
                storage.put(container, f"link{link}", b"by %d" % number, if_none_match=True)
            except errors.PreconditionFailed:
                return None
            return link, number

        with ThreadPoolExecutor(16) as pool:
            won = [each for each in pool.map(race, [(n // 16, n % 16) for n in range(6 * 16)]) if each]
        storage.close()

    assert [link for link, _ in won] == list(range(6))
    for link, number in won:
        assert connection.storage.get(container, f"link{link}") == b"by %d" % number
    assert len(list(connection.storage.versions(container))) == 6


@pytest.mark.parametrize(
    "seed", [3, pytest.param(4, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_run_survives(platform, connection, container, tmp_path, seed):
    """REST and S3, of the runner and of the function in its kernel, are spoilt: the evidence is there, once."""
    samples = [tmp_path / f"{number}.txt" for number in range(4)]
    for sample in samples:
        sample.write_bytes(sample.name.encode())
    with rest(platform, seed=seed, slow=0.3) as front, s3(platform, seed=seed, slow=0.3) as store:
        through = dataclasses.replace(
            platform.settings,
            url=front.url,
            s3=dataclasses.replace(platform.settings.s3, endpoint=store.endpoint),
        )
        start = time.monotonic()
        notebook = ROOT / "notebooks" / "hash_files.ipynb"
        run = libsafe_nb.run(None, notebook, settings=through, container=container, uploads=samples)
        told(front, 1, start)
        told(store, 1, start)

    assert run.status == "completed"
    assert connection.client.job(run.job)["status"] == "COMPLETED"
    versions = [each.path for each in connection.storage.versions(container)]
    assert len(versions) == len(set(versions))
    messages = [each["message"] for each in connection.client.messages(run.job)]
    assert len(messages) == len(set(messages))
    for sample in samples:
        hashes = connection.client.file_by_path(container, sample.name)["hashes"]
        assert hashes["md5"] == hashlib.md5(sample.name.encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_all_faults_at_their_worst(platform, connection, seed):
    """Slow means 30 s, and a 503 asks for 3."""
    mixed_rest(platform, connection, calls=300, seed=seed, slow=30.0, busy=3)
    mixed_s3(platform, connection, calls=300, seed=seed, slow=30.0, busy=3)


# Found on the way.


@pytest.mark.parametrize(("minutes", "way"), [(90, "ahead"), (-47, "behind")])
def test_a_clock_that_is_wrong_is_told_in_one_sentence(platform, container, monkeypatch, minutes, way):
    """Our clock, as signatures use it, against the real server's."""
    import datetime

    from botocore import auth

    now = auth.get_current_datetime
    monkeypatch.setattr(
        auth, "get_current_datetime", lambda *given: now(*given) + datetime.timedelta(minutes=minutes)
    )
    storage = Storage(platform.settings.s3)
    start = time.monotonic()
    with pytest.raises(errors.StorageError) as caught:
        storage.put(container, "a", b"x")
    storage.close()

    assert type(caught.value) is errors.StorageError
    amount = "1.5 h" if minutes == 90 else "47 min"
    assert f"its clock and this machine's differ by {amount}, this machine's is {way}" in str(caught.value)
    assert time.monotonic() - start < 5


def test_a_page_is_no_container_without_objects(platform, connection, container):
    """A page of good XML, or a body cut to nothing, was an empty listing to botocore."""
    connection.storage.put(container, "a", b"x")
    for fault in ("page of good XML", "truncated to nothing"):
        with s3(platform, share=1.0, faults=[fault], limit=1) as proxy:
            storage = storage_of(platform, proxy)
            assert [each.path for each in storage.list(container)] == ["a"]
            storage.close()
            assert proxy.injected.total() == 1


def test_a_put_that_was_sent_twice_does_not_undo_what_came_between(platform, connection, container):
    """Its answer is lost, another writes, and it is sent again only on the condition of what it saw."""
    honest = connection.storage
    with s3(platform, share=1.0, faults=["reset before it acted"], limit=1) as proxy:
        storage = storage_of(platform, proxy)
        send, between = storage.connected.put_object, []

        def put(**arguments):
            if len(between) == 1:
                honest.put(container, "a", b"theirs")
            between.append(arguments.get("IfNoneMatch") or arguments.get("IfMatch"))
            return send(**arguments)

        storage.connected.put_object = put
        stored = storage.put(container, "a", b"ours")
        storage.close()

    assert between[:2] == [None, "*"]
    assert between[2].strip('"') == hashlib.md5(b"theirs").hexdigest()
    assert [each.latest for each in honest.versions(container, "a")] == [True, False]
    assert honest.head(container, "a").version_id == stored.version_id


def test_equal_bytes_with_another_type_are_not_taken_for_the_lost_put(platform, connection, container):
    connection.storage.put(container, "a", b"x", content_type="text/plain")
    with s3(platform, share=1.0, faults=["reset before it acted"], limit=1) as proxy:
        storage = storage_of(platform, proxy)
        storage.put(container, "a", b"x", content_type="text/html", metadata={"Run": "7"})
        storage.close()

    found = connection.storage.head(container, "a")
    assert (found.content_type, found.metadata.get("run")) == ("text/html", "7")


def test_bytes_that_are_not_those_stored_are_refused(connection, container, tmp_path):
    """The digest that is stored with the object is compared, as `download` always said."""
    storage = connection.storage
    storage.connected.put_object(
        Bucket=storage.bucket, Key=f"{container}/a", Body=b"other", Metadata={"sha256": "0" * 64}
    )
    for read in (storage.get, lambda *place: storage.download(*place, tmp_path / "a")):
        with pytest.raises(errors.StorageError, match="expected the bytes that were stored"):
            read(container, "a")
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_is_given_up_does_not_wait_for_its_other_parts(platform, container):
    """Three parts under way, each repeated for the budget: one that fails ends the others' waiting."""
    with s3(platform, share=0.0) as proxy:
        storage = storage_of(platform, proxy, budget=30)
        send = storage.connected.upload_part

        def upload_part(**arguments):
            if arguments["PartNumber"] == 2:
                raise ValueError("of its own")
            raise OSError("no network")

        storage.connected.upload_part = upload_part
        start = time.monotonic()
        with pytest.raises((ValueError, errors.StorageError)):
            storage.upload(container, "a", io.BytesIO(bytes(33 * MIB)))
        storage.connected.upload_part = send
        storage.close()

    assert time.monotonic() - start < 15


def test_every_fault_is_of_one_side_or_both():
    assert set(ALL) == set(HERE["rest"]) | set(HERE["s3"])
    assert s3wire.TRIES.keys() <= {s3wire.GARBAGE, s3wire.CLOCK, s3wire.MUTE}
