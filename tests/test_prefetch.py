"""What a loop will ask for is fetched beforehand, and is what it would have been told a moment later."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time

import pytest
from test_run import START

from libsafe_nb import calls, door, errors
from libsafe_nb.client import Client
from libsafe_nb.compat import others, prefetch
from libsafe_nb.compat.files import Files
from libsafe_nb.compat.session import Session
from libsafe_nb.compat.standin import s3_file, s3_storage
from libsafe_nb.smallobjects import SmallObjects

ODD = ["a b", "ä/ö", "%41", "a+b", "a#b?c", "a&b=c", "~*'()", "日本", "x" * 200, "a.b..c", 'q"<>', "tab%09"]


@pytest.fixture
def loop(platform, connection, container):
    """A session of its own and a loop over ten files, each of which says its number."""
    for n in range(10):
        connection.storage.put(container, f"{n}.txt", f"number {n}".encode())
        connection.client.set_metadata(
            connection.client.file_by_path(container, f"{n}.txt")["id"],
            [{"iecode": "title", "value": f"{n}"}],
        )
    session = Session(platform.settings.url, platform.settings.key_user, platform.settings.s3)
    paths = [f"/{n}.txt" for n in range(10)]
    yield session, Files(session, container, ids=(), paths=paths), s3_storage.Storage(session, container)
    session.close()


@pytest.fixture
def gets(monkeypatch):
    """The paths that were fetched beforehand."""
    found, get = [], SmallObjects.get

    def noted(self, container, path, limit):
        found.append(path)
        return get(self, container, path, limit)

    monkeypatch.setattr(SmallObjects, "get", noted)
    return found


@pytest.mark.parametrize("fast", [True, False])
def test_small_objects_are_what_the_storage_opens(fast, connection, container):
    """Whatever their name; keys of which one is the other's encoding are told apart."""
    storage = connection.storage
    for n, name in enumerate([*ODD, "A", "a%20b"]):
        storage.put(container, name, f"{n} {name}".encode() * n)
    objects = SmallObjects(storage, fast=fast)
    if fast:
        pytest.importorskip("obstore")
        assert objects._store is not None

    given = 0
    for n, name in enumerate([*ODD, "A", "a%20b"]):
        found = objects.get(container, "/" + name, 10_000)
        if found is None:
            # Then it is asked for in the ordinary way.
            continue
        given += 1
        with storage.open(container, name) as stream:
            assert found.body.read() == stream.read() == f"{n} {name}".encode() * n
            assert (found.etag, found.version_id, found.size, found.sha256) == (
                stream.etag,
                stream.version_id,
                stream.size,
                stream.sha256,
            )
    assert given >= 10


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_large_missing_or_refused_is_not_given(fast, connection, container):
    storage = connection.storage
    objects = SmallObjects(storage, fast=fast)
    storage.put(container, "large", b"x" * 1001)
    storage.put(container, "just", b"x" * 1000)

    assert objects.get(container, "just", 1000).size == 1000
    assert objects.get(container, "large", 1000) is None
    assert objects.get(container, "none", 1000) is None
    assert objects.get(container, "a//b", 1000) is None


def test_no_token_of_the_environment_is_sent(connection, container, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    connection.storage.put(container, "a", b"x")

    assert SmallObjects(connection.storage).get(container, "a", 1000).body.read() == b"x"


def test_a_loop_that_opens_file_after_file_has_the_next_fetched(loop, gets):
    _, files, storage = loop
    read = [s3_file.get_stream(storage, file).read() for file in files]

    assert read == [f"number {n}".encode() for n in range(10)]
    assert gets == [f"/{n}.txt" for n in range(3, 10)]


def test_a_loop_that_opens_none_fetches_none(loop, gets):
    _, files, _ = loop
    for _ in files:
        pass

    assert gets == []


def test_what_the_function_wrote_is_what_it_reads(loop, gets, container):
    session, files, storage = loop
    read = []
    for n, file in enumerate(files):
        if n == 5:
            session.outbox.write(container, "6.txt", b"written", None)
        read.append(s3_file.get_stream(storage, file).read())

    assert read[6] == b"written"
    assert read[7] == b"number 7"


def test_what_was_fetched_too_long_ago_is_fetched_again(loop, gets, container, connection, monkeypatch):
    monkeypatch.setattr(prefetch, "FRESH", 0.2)
    _, files, storage = loop
    read = []
    for n, file in enumerate(files):
        if n == 5:
            connection.storage.put(container, "6.txt", b"by somebody else")
            time.sleep(0.3)
        read.append(s3_file.get_stream(storage, file).read())

    assert read[6] == b"by somebody else"


def test_an_object_that_cannot_be_fetched_is_told_as_ever(loop, gets, container, connection):
    _, files, storage = loop
    connection.storage.delete(container, "6.txt")
    # The look-up came before, as when it is deleted amid the loop.
    found = [s3_file.get_stream(storage, file) for file in files]

    assert [each is None for each in found] == [n == 6 for n in range(10)]


def test_metadata_is_asked_for_many_at_once(loop, monkeypatch):
    session, files, _ = loop
    single, metadata = [], Client.metadata

    def noted(self, file):
        single.append(file)
        return metadata(self, file)

    monkeypatch.setattr(Client, "metadata", noted)
    titles = []
    for file in files:
        ready, found = session.prefetch.metadata(file.id)
        found = found if ready else session.client.metadata(file.id)
        titles.append(found[0]["value"][0])

    assert titles == [f"{n}" for n in range(10)]
    assert len(single) == 3


def test_a_platform_without_that_call_is_asked_file_by_file(loop, monkeypatch):
    session, files, _ = loop

    def none(self, ids):
        raise errors.PlatformError("there is no such call", status=404)

    monkeypatch.setattr(Client, "metadata_of_many", none)

    assert [session.prefetch.metadata(file.id) for file in files] == [(False, None)] * 10
    assert not session.prefetch._many


def test_in_a_forked_process_nothing_is_fetched_beforehand(loop, gets):
    session, files, storage = loop
    looped = iter(files)
    for _ in range(4):
        s3_file.get_stream(storage, next(looped)).read()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            session.forked()
            before = len(gets)
            read = [s3_file.get_stream(storage, file).read() for file in looped]
            right = read == [f"number {n}".encode() for n in range(4, 10)] and len(gets) == before
            os.write(send, b"y" if right else b"n")
            status = 0
        finally:
            os._exit(status)
    assert os.read(receive, 1) == b"y"
    os.waitpid(child, 0)
    for end in (receive, send):
        os.close(end)


def test_in_a_run_a_loop_sees_what_it_and_its_children_wrote(run, notebook, connection, container):
    files = []
    for n in range(12):
        connection.storage.put(container, f"{n:02}.txt", f"number {n}".encode())
        files.append(str(connection.client.file_by_path(container, f"{n:02}.txt")["id"]))
    cell = START + (
        "import os\n"
        "from libnova.com.Filesystem import S3\n"
        "seen, titles = [], []\n"
        "for n, file in enumerate(request.Files):\n"
        "    if n == 4:\n"
        "        File.set_metadata(request.Files[5].id, {'title': 'set'})\n"
        "    if n == 7:\n"
        "        child = os.fork()\n"
        "        if child == 0:\n"
        "            File.set_metadata(request.Files[9].id, {'title': 'child'})\n"
        "            File.write(request.container_id, '10.txt', b'by the child')\n"
        "            os._exit(0)\n"
        "        assert os.waitpid(child, 0)[1] == 0\n"
        "    titles.append((File.get_metadata(file.id, True) or {}).get('title'))\n"
        "    seen.append(S3.File.get_stream(request.Storage, file).read())\n"
        "assert titles == [None] * 5 + ['set'] + [None] * 3 + ['child'] + [None] * 2, titles\n"
        "assert seen[10] == b'by the child', seen\n"
        "assert seen[11] == b'number 11', seen\n"
    )
    done = run(notebook(cell), files=files)

    assert done.error is None
    assert done.status == "completed"


def test_in_a_run_what_is_on_its_way_is_not_read_as_it_was_before(run, notebook, connection, container):
    """Metadata that the runner has yet to send, of a file whose metadata would be fetched beforehand meanwhile."""
    files = []
    for n in range(12):
        connection.storage.put(container, f"{n:02}.txt", b"x")
        files.append(str(connection.client.file_by_path(container, f"{n:02}.txt")["id"]))
    cell = START + (
        "titles = []\n"
        "for n, file in enumerate(request.Files):\n"
        "    titles.append((File.get_metadata(file.id, True) or {}).get('title'))\n"
        "    if n == 3:\n"
        "        File.set_metadata(request.Files[8].id, {'title': 'set'})\n"
        "assert titles == [None] * 8 + ['set'] + [None] * 3, titles\n"
    )
    done = run(notebook(cell), files=files)

    assert done.error is None


def test_what_a_called_function_writes_is_what_is_read(loop, gets, container, connection, monkeypatch):
    _, files, storage = loop

    def write():
        # As if it were no process of this function's.
        others.is_ours()
        connection.storage.put(container, "7.txt", b"by another")

    def knock(what, **fields):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        return {"key": "r/call-1", "call": "1", "job": "2", "container": container}

    monkeypatch.setattr(calls, "_knock", knock)
    monkeypatch.setenv(door.VARIABLE, "/none")
    read = []
    for n, file in enumerate(files):
        if n == 5:
            calls.call("other")
        read.append(s3_file.get_stream(storage, file).read())

    assert read[7] == b"by another"


ENDS = """
import atexit, sys, threading
from libsafe_nb.compat.prefetch import Workers
atexit.register(print, "ended in order", flush=True)
workers = Workers(2)
for _ in range(3):
    workers.submit(threading.Event().wait, 60)
"""


def test_a_fetch_that_hangs_does_not_hold_up_the_end_of_the_process():
    """The kernel would be killed before its `atexit` functions."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=True)

    assert done.stdout == "ended in order\n"
    assert time.monotonic() - began < 30


def test_a_session_that_is_closed_leaves_no_thread(loop):
    session, files, storage = loop
    for file in files:
        s3_file.get_stream(storage, file).read()
    mine = [each for each in threading.enumerate() if each.name == "prefetch"]
    assert mine
    session.close()
    for each in mine:
        each.join(10)
        assert not each.is_alive()


PAST = {
    "a client of its own": "exec(program)",
    "a program": "subprocess.run([sys.executable, '-c', program], check=True)",
    "a shell": "assert os.system(shlex.join([sys.executable, '-c', program])) == 0",
    "a spawned process": (
        "spawned = multiprocessing.get_context('spawn').Process(target=exec, args=(program,))\n"
        "spawned.start()\nspawned.join()"
    ),
}


@pytest.mark.parametrize("how", PAST)
def test_what_a_function_writes_past_us_is_what_it_reads(loop, gets, how):
    session, files, storage = loop
    s3, key = session.s3, f"{storage.container_id}/7.txt"
    program = (
        "import boto3\n"
        f"client = boto3.client('s3', endpoint_url={s3.endpoint!r}, aws_access_key_id={s3.access_key!r},"
        f" aws_secret_access_key={s3.secret_key!r}, region_name='us-east-1')\n"
        f"client.put_object(Bucket={s3.bucket!r}, Key={key!r}, Body=b'past us')\n"
    )
    # Not for the first time in this process: of that an event would tell.
    importlib.import_module("multiprocessing.popen_spawn_posix")
    read = []
    for n, file in enumerate(files):
        if n == 5:
            exec(
                f"import multiprocessing, os, shlex, subprocess, sys\n{PAST[how]}",
                {"program": program},
            )
        read.append(s3_file.get_stream(storage, file).read())

    assert gets
    assert read == [b"past us" if n == 7 else f"number {n}".encode() for n in range(10)]


def test_a_loop_that_writes_at_each_file_fetches_none_in_vain(loop, gets, container):
    session, files, storage = loop
    for n, file in enumerate(files):
        s3_file.get_stream(storage, file).read()
        session.outbox.write(container, f"made/{n}.txt", b"made", None)

    assert gets == []
