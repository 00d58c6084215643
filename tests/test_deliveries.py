"""What a function tells and need not wait for arrives: all of it, once, in its order, and a refusal is told to the end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time

import pytest
from test_recover import (  # noqa: F401 - fixtures
    messages_of,
    record_of,
    recovered,
    said,
    settings,
    sockets,
    start,
)
from test_run import START

import libsafe_nb
from libsafe_nb import deliveries, desk, errors
from libsafe_nb.children import Children
from libsafe_nb.client import Client
from libsafe_nb.deliveries import Deliveries
from libsafe_nb.desk import Desk
from libsafe_nb.door import Door
from libsafe_nb.journal import Journal
from libsafe_nb.storage import Storage

HELLO = hashlib.md5(b"hello").hexdigest()


class Platform:
    """Notes what is sent; refuses and is away as it is told to."""

    def __init__(self):
        self.calls, self.bulk, self.away, self.refused = [], True, 0, set()
        self.held = threading.Event()
        self.held.set()

    def _take(self, name, items):
        self.held.wait(10)
        self.calls.append((name, [each for each, _ in items]))
        if self.away:
            self.away -= 1
            raise errors.Unreachable("away")
        if any(what in self.refused for _, what in items):
            raise errors.NotFound("there is no such file", status=404)

    def _many(self, name, items):
        if not self.bulk:
            self.calls.append((name, None))
            raise errors.PlatformError("there is no such call", status=404)
        self._take(name, items)

    def set_hashes(self, items):
        self._many("hashes", [(each["value"], each["id"]) for each in items])

    def set_metadata_of_many(self, items):
        self._many("metadatas", [(each["metadata"][0]["value"], each["id"]) for each in items])

    def message_many(self, job, items):
        self._many("messages", [(each["message"], each.get("file_id")) for each in items])

    def set_hash(self, file, algorithm, value, *, idempotency_key):
        self._take("hash", [(value, file)])

    def set_metadata(self, file, metadata, *, idempotency_key):
        self._take("metadata", [(metadata[0]["value"], file)])

    def set_container_metadata(self, container, metadata, *, idempotency_key):
        self._take("container", [(metadata[0]["value"], container)])

    def message(self, job, text, *, type, file=None, idempotency_key):
        self._take("message", [(text, file)])


class Told:
    def __init__(self, platform):
        self.became = {}
        self.numbers = iter(range(10_000))
        self.deliveries = Deliveries(platform, "7", self.note)

    def note(self, write, refusal):
        assert write["key"] not in self.became
        self.became[write["key"]] = refusal

    def add(self, kind, value, file="1"):
        what = {"message": {"type": "INFO", "message": value, "file_id": file}}.get(kind)
        if kind == "hash":
            what = {"file_id": file, "algorithm": "md5", "value": value}
        elif kind == "metadata":
            what = {"target": "file", "id": file, "descriptors": [{"iecode": "a", "value": value}]}
        self.deliveries.add({"kind": kind, "key": f"{next(self.numbers)}", **what})


@pytest.fixture
def platform_():
    return Platform()


@pytest.fixture
def told(platform_):
    made = Told(platform_)
    yield made
    platform_.held.set()
    made.deliveries.close()
    assert not [each for each in threading.enumerate() if each.name == "deliveries"]


def test_what_comes_in_one_moment_goes_in_one_call_of_each_kind_messages_last(told, platform_):
    for n in range(50):
        told.add("message", f"m{n}")
        told.add("hash", f"h{n}")
        told.add("metadata", f"d{n}")
    told.deliveries.settle()

    expected = [[f"{letter}{n}" for n in range(50)] for letter in "hdm"]
    assert [sent for _, sent in platform_.calls] == expected
    assert len(told.became) == 150


def test_whoever_waits_waits_for_what_it_asks_about_only(told, platform_):
    platform_.held.clear()
    told.add("hash", "h", file="1")
    told.deliveries.settle("file 2")
    told.deliveries.settle("job")
    waiter = threading.Thread(target=told.deliveries.settle, args=("file 1",))
    waiter.start()
    waiter.join(0.1)

    assert waiter.is_alive()
    platform_.held.set()
    waiter.join(10)
    assert not waiter.is_alive()


def test_where_there_are_no_calls_for_many_it_is_single_ones_from_then_on(told, platform_):
    platform_.bulk = False
    for n in range(3):
        told.add("message", f"m{n}")
    told.deliveries.settle()
    for n in range(3, 5):
        told.add("message", f"m{n}")
    told.deliveries.settle()

    assert [name for name, _ in platform_.calls] == ["messages", *["message"] * 5]
    assert [sent[0] for _, sent in platform_.calls[1:]] == [f"m{n}" for n in range(5)]


def test_one_that_is_refused_takes_no_other_with_it(told, platform_):
    platform_.refused = {"13"}
    for n in range(20):
        told.add("hash", f"h{n}", file=f"{n}")
    told.deliveries.settle()
    told.add("hash", "later")
    told.add("hash", "latest")
    told.deliveries.settle()

    assert {key for key, refusal in told.became.items() if refusal} == {"13"}
    assert platform_.calls[-1] == ("hashes", ["later", "latest"])


def test_a_message_that_is_refused_with_its_file_is_told_without(told, platform_):
    platform_.refused = {"9"}
    told.add("message", "m", file="9")
    told.deliveries.settle()

    assert platform_.calls[-1] == ("message", ["m (file 9)"])
    assert told.became == {"0": None}


def test_an_outage_is_told_to_who_waits_and_loses_nothing(told, platform_, monkeypatch):
    monkeypatch.setattr(deliveries, "AWAY", 0.05)
    platform_.away = 2
    for n in range(3):
        told.add("message", f"m{n}")
    with pytest.raises(errors.Unreachable):
        told.deliveries.settle()
    assert len(told.deliveries.pending) == 3
    end = time.monotonic() + 10
    while told.deliveries.pending:
        assert time.monotonic() < end
        time.sleep(0.01)

    assert platform_.calls[-1] == ("messages", ["m0", "m1", "m2"])


def test_whoever_gives_in_more_than_can_be_sent_waits(told, platform_, monkeypatch):
    monkeypatch.setattr(deliveries, "FULL", 10)
    platform_.held.clear()
    adding = threading.Thread(target=lambda: [told.add("message", f"m{n}") for n in range(30)])
    adding.start()
    adding.join(0.3)

    assert adding.is_alive()
    assert len(told.deliveries.pending) == 10
    platform_.held.set()
    adding.join(10)
    assert not adding.is_alive()
    told.deliveries.settle()
    assert [each for _, sent in platform_.calls for each in sent] == [f"m{n}" for n in range(30)]


def test_what_is_closed_over_stays_pending(told, platform_):
    platform_.held.clear()
    told.add("hash", "a")
    while not told.deliveries._thread.is_alive():
        time.sleep(0.01)
    told.add("hash", "b")
    threading.Timer(0.2, platform_.held.set).start()
    told.deliveries.close()
    told.deliveries.add({"kind": "hash", "key": "x", "file_id": "1", "algorithm": "md5", "value": "c"})

    assert "x" in [each["key"] for each in told.deliveries.pending]
    with pytest.raises(errors.Unreachable, match="has ended"):
        told.deliveries.settle()


def test_lines_tell_what_is_unsent():
    message = {"kind": "message", "key": "1", "type": "INFO", "message": "m", "file_id": None}
    effect = {"kind": "hash", "file_id": "1", "algorithm": "md5", "value": "v"}
    metadata = {"kind": "metadata", "target": "file", "id": "1", "iecodes": ["a"]}
    descriptors = [{"iecode": "a", "value": "b"}]
    lines = [
        message,
        {"kind": "intent", "effect": effect, "key": "2"},
        {"kind": "intent", "effect": effect},
        {"kind": "intent", "effect": metadata, "key": "3", "descriptors": descriptors},
    ]

    first, second, third = deliveries.unsent(lines)
    assert (first, second) == (message, {**effect, "key": "2"})
    assert third == {**metadata, "key": "3", "descriptors": descriptors}
    assert deliveries.unsent([*lines, {"kind": "sent", "key": "2"}]) == [first, third]
    *told, last = deliveries.lines_of(third, errors.NotFound("no"))
    assert (last["kind"], [each["kind"] for each in told]) == ("refused", ["failure"])
    notice = deliveries.notice(third, errors.NotFound("no"))
    assert (notice["type"], notice["message"]) == ("ERROR", "not stored: the metadata of file 1: no")
    assert (
        deliveries.notice(message, errors.NotFound("no"))["message"]
        == "not told: a message of 1 characters: no"
    )
    assert deliveries.notice(notice, errors.NotFound("no")) is None
    assert deliveries.lines_of(second, None) == [effect, {"kind": "sent", "key": "2"}]


# On the platform ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["one", "many"])
def test_one_key_acts_once_in_a_call_for_one_and_in_one_for_many(first, connection, container):
    client = connection.client
    job = client.create_job(container)["id"]

    def one():
        return client.message(job, "m", idempotency_key="k")["id"]

    def many():
        item = {"type": "INFO", "message": "m", "idempotency_key": "k"}
        return client.message_many(job, [item])[0]["id"]

    calls = [one, many] if first == "one" else [many, one]
    found = {call() for call in calls * 2}

    assert [each["id"] for each in client.messages(job)] == list(found)


def test_metadata_of_many(connection, container):
    files = []
    for n in range(3):
        connection.storage.put(container, f"{n}.txt", b"x")
        files.append(connection.client.file_by_path(container, f"{n}.txt")["id"])
    connection.client.set_metadata(files[1], [{"iecode": "title", "value": "t"}])

    found = connection.client.metadata_of_many(files)

    assert list(found) == files
    assert found[files[0]] is None
    assert found == {each: connection.client.metadata(each) for each in files}


# In a run -------------------------------------------------------------------------------------------------------


def given_files(connection, container, count):
    for n in range(count):
        connection.storage.put(container, f"{n:03}.txt", b"hello")
    return [str(connection.client.file_by_path(container, f"{n:03}.txt")["id"]) for n in range(count)]


def test_a_function_finds_its_own_writes(run, notebook, connection, container):
    files = given_files(connection, container, 3)
    cell = START + (
        "import os\n"
        f"digest = {HELLO!r}\n"
        "first, second, third = request.Files\n"
        "File.set_hash(first.id, 'md5', digest)\n"
        "assert File.get_hashes(first.id) == {'md5': digest}\n"
        "File.set_metadata(first.id, {'title': 'a'})\n"
        "assert File.get_metadata(first.id, True) == {'title': 'a'}\n"
        "File.set_metadata(second.id, {'title': 'b'})\n"
        "assert [each.id for each in File.search([{'property': 'metadata.title', 'operator': 'eq', 'value': 'b'}])"
        " if each.id == second.id]\n"
        "from libnova.com.Api import Job\n"
        "request.log('said')\n"
        "assert 'said' in [each.message for each in Job.get_messages(request.job_id)]\n"
        # Each that it forks has ended by then, and what it gave in may wait in another line than the question.
        "for n in range(20):\n"
        "    digest = f'{n:032x}'\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        File.set_hash(third.id, 'md5', digest)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    assert File.get_hashes(third.id) == {'md5': digest}\n"
    )
    done = run(notebook(cell), files=files)

    assert done.error is None
    assert done.status == "completed"


def test_a_function_finds_what_a_program_of_it_wrote(run, notebook, connection, container):
    """`libsafe-nb job` gives in and ends; Python's own process knows nothing of it."""
    (file,) = given_files(connection, container, 1)
    cell = START + (
        "import subprocess\n"
        "(file,) = request.Files\n"
        f"subprocess.run(['libsafe-nb', 'job', 'hash', file.id, 'md5', {HELLO!r}], check=True)\n"
        "subprocess.run(['libsafe-nb', 'job', 'log', 'by a program'], check=True)\n"
        f"assert File.get_hashes(file) == {{'md5': {HELLO!r}}}\n"
        "assert 'by a program' in [each.message for each in Job.get_messages(request.job_id)]\n"
    )
    done = run(notebook(cell), files=[file])

    assert done.error is None


def test_who_is_called_or_stored_for_a_shell_finds_what_was_given_in_before(
    run, notebook, connection, container, monkeypatch
):
    """By whichever way the function gave it in."""
    files = given_files(connection, container, 2)
    monkeypatch.setattr(deliveries, "LINGER", 30)
    seen = []

    def called(self, **asked):
        seen.append(connection.client.file(files[0])["hashes"])
        raise errors.NotFound("there is no such function", status=404)

    def stored(self, *arguments, **options):
        seen.append(connection.client.file(files[1])["hashes"])
        return upload(self, *arguments, **options)

    upload = Storage.upload
    monkeypatch.setattr(Children, "_call", called)
    cell = START + (
        "import libsafe_nb, subprocess\n"
        "first, second = request.Files\n"
        f"File.set_hash(first.id, 'md5', {HELLO!r})\n"
        "try:\n"
        "    libsafe_nb.call('none')\n"
        "except libsafe_nb.errors.NotFound:\n"
        "    pass\n"
        f"File.set_hash(second.id, 'md5', {HELLO!r})\n"
        "open('made.txt', 'w').write('made')\n"
        "subprocess.run(['libsafe-nb', 'job', 'put', 'made.txt'], check=True)\n"
    )
    monkeypatch.setattr(Storage, "upload", stored)
    done = run(notebook(cell), files=files)

    assert done.error is None
    assert seen[:2] == [{"md5": HELLO}] * 2


def test_what_waits_for_its_turn_at_the_end_is_written_down(
    run, notebook, connection, container, monkeypatch
):
    """A function may end while more is on its way than can be sent: what it said is taken before its door is shut."""
    monkeypatch.setattr(deliveries, "FULL", 30)
    monkeypatch.setattr(deliveries, "MOST", 10)
    closed, many, close, note = threading.Event(), Client.message_many, Door.close, Desk._note
    noted, before = [], []

    def slow(self, *arguments):
        closed.wait(10)
        return many(self, *arguments)

    def shut(self):
        close(self)
        before.extend(noted)
        closed.set()

    def remember(self, event):
        note(self, event)
        noted.append(event.get("message"))

    monkeypatch.setattr(Client, "message_many", slow)
    monkeypatch.setattr(Door, "close", shut)
    monkeypatch.setattr(Desk, "_note", remember)
    done = run(notebook(START + "for n in range(90): request.log(f'message {n}')\n"))

    expected = [f"message {n}" for n in range(90)]
    assert [each for each in before if each] == expected
    assert messages_of(connection, container, done) == expected
    assert [each for each in said(connection, container) if each.startswith("message ")] == expected


def test_one_that_is_too_long_for_the_door_is_told_and_shuts_it_for_no_other(run, notebook):
    cell = START + (
        "from libsafe_nb import door, errors\n"
        "try:\n"
        "    request.log('x' * door.MAX_LINE)\n"
        "except errors.UsageError as exc:\n"
        "    print(exc)\n"
        "    request.log('told')\n"
        "else:\n"
        "    raise AssertionError\n"
    )

    assert run(notebook(cell)).error is None


def test_what_is_no_write_keeps_no_run_from_its_end(run, notebook, connection, container):
    """Of whatever speaks at the door: what makes no sense is answered, what cannot be sent is refused, the rest arrives."""
    cell = START + (
        "from libsafe_nb import errors\n"
        "from libsafe_nb.compat import session\n"
        "door = session.attached().door\n"
        "for effect in ({'kind': 'hash', 'file_id': '1'}, {'kind': 'other'}, {}):\n"
        "    try:\n"
        "        door.call('write', effect=effect)\n"
        "    except errors.LibsafeError as exc:\n"
        "        print(exc)\n"
        "    else:\n"
        "        raise AssertionError(effect)\n"
        "door.call('write', effect={'kind': 'hash', 'file_id': '..', 'algorithm': 'md5', 'value': '0' * 32})\n"
        "request.log('after it')\n"
    )
    done = run(notebook(cell))

    assert done.status == "failed"
    assert connection.client.job(done.job)["status"] == "FAILED"
    assert "after it" in said(connection, container)


def test_a_write_that_is_refused_later_fails_the_run_and_names_its_file(run, notebook, connection, container):
    """The second file goes away between its look-up and its hash; the function has gone on and knows nothing."""
    files = given_files(connection, container, 3)
    connection.client.set_metadata(files[0], [{"iecode": "title", "value": "t"}])
    cell = START + (
        "from libsafe_nb.compat import session\n"
        "for file in request.Files:\n"
        "    id = '999999999' if file.fullpath == '/001.txt' else file.id\n"
        "    session.current().shown(id)\n"
        f"    File.set_hash(id, 'md5', {HELLO!r})\n"
        "request.job_end(True)\n"
    )
    done = run(notebook(cell), files=files)
    (job,) = connection.client.jobs(container=container)

    assert (done.status, job["status"]) == ("failed", "FAILED")
    assert any(
        each.startswith("not stored: the hash md5 of file 999999999: ")
        for each in said(connection, container)
    )
    record = record_of(connection, container, done)
    assert [each["file_id"] for each in record["platform_writes"]] == [files[0], files[2]]
    assert {each["id"]: each["outcome"] for each in record["files"]}["999999999"] == "failure"
    assert connection.client.file(files[2])["hashes"] == {"md5": HELLO}


def test_a_message_that_is_refused_is_told_and_in_the_evidence(run, notebook, connection, container):
    """The platform takes no message of more than a million characters."""
    cell = START + "request.log('x' * 2_000_000)\nrequest.log('next')\nrequest.job_end(True)\n"
    done = run(notebook(cell))
    told = said(connection, container)

    assert done.status == "completed"
    assert any(each.startswith("not told: a message of 2000000 characters: ") for each in told), told[:2]
    assert "next" in told
    assert len(messages_of(connection, container, done)[0]) == 2_000_000


def test_a_refusal_that_a_function_meets_and_handles_is_its_own_matter(run, notebook, container):
    cell = START + (
        "from libsafe_nb.compat import session\n"
        "from libsafe_nb.errors import NotFound\n"
        "session.current().shown('999999999')\n"
        f"File.set_hash('999999999', 'md5', {HELLO!r})\n"
        "try:\n"
        "    File.get_hashes('999999999')\n"
        "except NotFound as exc:\n"
        "    assert 'hash' in str(exc)\n"
        "else:\n"
        "    raise AssertionError\n"
        "request.job_end(True)\n"
    )

    assert run(notebook(cell)).status == "completed"


def test_a_wrong_id_is_told_at_the_call(run, notebook, container):
    cell = START + (
        "from libsafe_nb.errors import NotFound\n"
        "try:\n"
        f"    File.set_hash('999999999', 'md5', {HELLO!r})\n"
        "except NotFound:\n"
        "    print('told')\n"
        "else:\n"
        "    raise AssertionError\n"
    )

    assert run(notebook(cell)).status == "completed"


def test_what_a_killed_kernel_gave_in_arrives(run, notebook, connection, container):
    files = given_files(connection, container, 20)
    cell = START + (
        "import os, signal\n"
        "for file in request.Files:\n"
        "    request.log('of ' + file.fullpath, file_id=file.id)\n"
        f"    File.set_hash(file.id, 'md5', {HELLO!r})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run(notebook(cell), files=files)

    assert done.cause == "kernel-died"
    assert [each for each in said(connection, container) if each.startswith("of ")] == [
        f"of /{n:03}.txt" for n in range(20)
    ]
    assert all(connection.client.file(each)["hashes"] == {"md5": HELLO} for each in files)
    assert len(record_of(connection, container, done)["platform_writes"]) == 20


def test_what_a_killed_runner_had_noted_is_delivered_once_by_the_recovery(
    start,  # noqa: F811
    notebook,
    settings,  # noqa: F811
    connection,
    container,
    platform,
):
    """Hashes, metadata and messages wait in the background; SIGKILL; some had arrived, and are not told twice."""
    files = given_files(connection, container, 10)
    cell = START + (
        "import time\n"
        "from libsafe_nb.compat import session\n"
        "for n, file in enumerate(request.Files):\n"
        "    request.log(f'message {n}', file_id=file.id)\n"
        f"    File.set_hash(file.id, 'md5', {HELLO!r})\n"
        "    File.set_metadata(file.id, [{'iecode': 'title', 'value': f't{n}', 'action': 'add'}])\n"
        "    if n == 4: time.sleep(0.5)\n"
        "session.attached().door.call('payload')\n"
        "open(json_sample['function_params']['mark'], 'w').close()\n"
        "time.sleep(600)\n"
    )
    mark = settings.home.parent / "mark"
    path = notebook(cell)
    node = json.loads(path.read_text())
    node["cells"][0]["source"] = (
        'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {"mark": ""}}'
    )
    path.write_text(json.dumps(node))
    options = [option for file in files for option in ("--file", file)]
    process = start(path, *options, "--param", f"mark={mark}")
    end = time.monotonic() + 60
    while not mark.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()

    (found,) = recovered(settings)
    told = [each for each in said(connection, container) if each.startswith("message ")]
    assert told == [f"message {n}" for n in range(10)]
    for n, file in enumerate(files):
        assert connection.client.file(file)["hashes"] == {"md5": HELLO}
        assert connection.client.metadata(file) == [{"iecode": "title", "value": [f"t{n}"]}]
    record = record_of(connection, container, found)
    kinds = [each["kind"] for each in record["platform_writes"]]
    assert (kinds.count("hash"), kinds.count("metadata")) == (10, 10)
    assert messages_of(connection, container, found) == told


def test_a_platform_without_calls_for_many_gets_everything_all_the_same(
    run, notebook, connection, container, monkeypatch
):
    def none(self, *arguments, **options):
        raise errors.PlatformError("there is no such call", status=404)

    for name in ("message_many", "set_hashes", "set_metadata_of_many"):
        monkeypatch.setattr(Client, name, none)
    files = given_files(connection, container, 5)
    cell = START + (
        "for n, file in enumerate(request.Files):\n"
        "    request.log(f'message {n}', file_id=file.id)\n"
        f"    File.set_hash(file.id, 'md5', {HELLO!r})\n"
    )

    assert run(notebook(cell), files=files).status == "completed"
    assert [each for each in said(connection, container) if each.startswith("message ")] == [
        f"message {n}" for n in range(5)
    ]
    assert all(connection.client.file(each)["hashes"] == {"md5": HELLO} for each in files)


def test_what_a_recovery_finds_refused_fails_the_run(notebook, settings, connection, container, monkeypatch):  # noqa: F811
    """Also where the runner had written its verdict down: it had not heard of the refusal."""
    (file,) = given_files(connection, container, 1)
    cell = START + f"(file,) = request.Files\nFile.set_hash(file.id, 'md5', {HELLO!r})\n"
    payload = {"function_data": {"container": {"id": container}, "files": {"ids": [file]}}}
    write = Journal.write

    def deadly(self, name, **facts):
        if name == "frozen":
            os._exit(9)
        write(self, name, **facts)

    def away(self, *arguments, **options):
        raise errors.Unreachable("away")

    def refused(self, *arguments, **options):
        raise errors.NotFound("there is no such file", status=404)

    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(Journal, "write", deadly)
            monkeypatch.setattr(Client, "set_hash", away)
            monkeypatch.setattr(desk, "STALLED", 0.1)
            libsafe_nb.run(payload, notebook(cell), settings=settings)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.setattr(Client, "set_hash", refused)
    (found,) = recovered(settings)

    assert found.status == "failed"
    assert connection.client.job(found.job)["status"] == "FAILED"
    assert any(each.startswith("not stored: the hash md5") for each in said(connection, container))
