"""The stand-in inside a run: keys through the door, every effect told, the verdict handed over."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
from faults import ScriptedServer

from libsafe_nb import compat, errors
from libsafe_nb.client import Client
from libsafe_nb.compat import keys, session
from libsafe_nb.door import Door

NONCE = "nonce-of-one-use"
MIB = 2**20


class Runner:
    """The runner's side of the door, as far as a kernel can see it."""

    def __init__(self, settings, job):
        self.settings, self.job = settings, job
        self.events, self.verdict, self.nonce, self.extra = [], None, NONCE, {}
        self.waits = []

    def answer(self, do, fields):
        known = {
            "keys": self.keys,
            "event": self.event,
            "verdict": self.end,
            "log": self.log,
            "write": self.write,
            "settle": lambda about: self.waits.append(about),
        }
        return known[do](**fields)

    def keys(self, nonce):
        if nonce != self.nonce:
            raise errors.UsageError("the keys of a run are handed out once")
        self.nonce = None
        settings = self.settings
        api = {
            "url": settings.url,
            "key_user": settings.key_user,
            "key_root": settings.key_root,
            **self.extra,
        }
        names = ("endpoint", "bucket", "access_key", "secret_key", "region")
        return {
            "api": api,
            "s3": {name: getattr(settings.s3, name) for name in names},
            "run": "r",
            "job": self.job,
        }

    def event(self, event):
        self.events.append(event)

    def log(self, message, type, file_id):
        with Client.of(self.settings) as client:
            client.message(self.job, message, type=type, file=file_id)
        self.event({"kind": "message", "type": type, "message": message, "file_id": file_id})

    def write(self, effect, descriptors=None):
        """As the desk does, at once."""
        from libsafe_nb.deliveries import Sending

        def became(write, refusal):
            assert refusal is None
            self.event(effect)

        self.event({"kind": "intent", "effect": effect})
        with Client.of(self.settings) as client:
            Sending(client, self.job, became).send(
                [{**effect, "descriptors": descriptors, "key": os.urandom(8).hex()}]
            )

    def end(self, ok):
        self.verdict = ok if self.verdict is None else self.verdict and ok
        return self.verdict

    def told(self, *kinds):
        return [each for each in self.events if each["kind"] in kinds]


@contextlib.contextmanager
def doored(runner):
    # A short path: a socket's is at most 107 bytes long.
    with tempfile.TemporaryDirectory() as folder, Door(Path(folder) / "d", runner.answer) as door:
        yield door


@pytest.fixture
def runner(platform, connection, container):
    job = connection.client.create_job(container)["id"]
    connection.client.update_job(job, status="RUNNING")
    return Runner(platform.settings, job)


@pytest.fixture
def namespace(runner, container):
    """What the kernel's globals hold after the injected cell."""
    placeholder = {"$secret": "key_user"}
    return {
        "json_sample": {
            "api": {"url": "http://go.libnova.com", "key_user": placeholder, "key_root": placeholder},
            "function_data": {"container": {"id": container}, "job": {"id": runner.job}},
            "function_params": {},
        }
    }


@pytest.fixture
def kernel(runner, namespace):
    """This process as the kernel of a run, up to the end of the silent step."""
    compat.install()
    with doored(runner) as door:
        keys.fill(namespace, str(door.path), NONCE, "json_sample")
        yield
        session.reset()
    compat.uninstall()


def settled(runner, *kinds, count=1):
    """The events of these kinds, once there are as many: `tell` does not wait."""
    end = time.monotonic() + 10
    while len(runner.told(*kinds)) < count:
        assert time.monotonic() < end, runner.events
        time.sleep(0.005)
    return runner.told(*kinds)


def request(namespace):
    from libnova.com.Nuclio.Request import Request

    body = json.dumps(namespace["json_sample"])
    return Request(None, type("", (object,), {"body": body})())


def stored(connection, container, path, data):
    connection.storage.put(container, path, data)
    return connection.client.file_by_path(container, path)["id"]


def test_the_payload_holds_the_keys_after_the_silent_step(kernel, namespace, platform, runner):
    """In place, so that any code which reads `json_sample["api"]` finds them, the vendor's own library included."""
    assert namespace["json_sample"]["api"] == {
        "url": platform.settings.url,
        "key_user": platform.settings.key_user,
        "key_root": platform.settings.key_root,
    }
    assert settled(runner, "library")[0]["library"] == "stand-in"


def test_a_payload_in_json_text_is_filled_too(runner, namespace, platform):
    namespace["json_sample"] = json.dumps(namespace["json_sample"])
    with doored(runner) as door:
        keys.fill(namespace, str(door.path), NONCE, "json_sample")
        session.reset()

    assert json.loads(namespace["json_sample"])["api"]["key_user"] == platform.settings.key_user


def test_the_nonce_counts_once(kernel, runner, namespace):
    with doored(runner) as door, pytest.raises(errors.UsageError, match="handed out once"):
        keys.fill(namespace, str(door.path), NONCE, "json_sample")


def test_job_end_hands_the_verdict_over_and_leaves_the_job_to_the_runner(
    kernel, runner, namespace, connection
):
    from libnova.com.Api import Job

    mine = request(namespace)
    mine.job_init()
    mine.job_end(True)
    mine.log("after the end")

    assert runner.verdict is True
    assert connection.client.job(runner.job)["status"] == "RUNNING"
    assert (Job.get(runner.job).status, Job.get_status(runner.job)) == ("COMPLETED", "COMPLETED")
    assert [each["message"] for each in connection.client.messages(runner.job)] == ["after the end"]


@pytest.mark.parametrize(
    ("calls", "verdict"), [([True, False], False), ([False, True], False), ([True, True], True)], ids=str
)
def test_the_first_verdict_counts_save_that_false_lowers_it(kernel, runner, namespace, calls, verdict):
    from libnova.com.Api import Job

    mine = request(namespace)
    for each in calls:
        mine.job_end(each)
    mine.job_init()

    assert runner.verdict is verdict
    assert Job.get_status(runner.job) == ("COMPLETED" if verdict else "FAILED")


def test_ending_the_job_through_job_is_the_same_verdict(kernel, runner, namespace, connection):
    from libnova.com.Api import Job

    request(namespace)
    Job.set_status(runner.job, "failed")

    assert runner.verdict is False
    assert connection.client.job(runner.job)["status"] == "RUNNING"


def test_another_job_is_ended_at_once(kernel, runner, connection, container):
    from libnova.com.Api import Job

    other = connection.client.create_job(container)["id"]
    Job.set_status(other, "RUNNING")
    Job.set_status(other, "COMPLETED")

    assert runner.verdict is None
    assert connection.client.job(other)["status"] == "COMPLETED"


def test_every_effect_is_told(kernel, runner, namespace, connection, container):
    from libnova.com.Api import Container, File, JobMessage

    file = stored(connection, container, "a.txt", b"x")
    tag = connection.client.create_tag(f"tag {container}")["id"]
    mine = request(namespace)
    mine.log("hello", JobMessage.JobMessageType.WARNING, file)
    File.set_hash(file, "md5", hashlib.md5(b"x").hexdigest())
    File.set_metadata(file, {"relation": "aspace:1"})
    Container.set_metadata(container, {"c_title": "x"})
    File.add_tag(file, tag)
    made = File.upload(container, "out.txt", b"written")
    File.delete(file)

    told = settled(runner, "message", "hash", "metadata", "tag", "write", "delete", count=7)
    assert [each["kind"] for each in told] == [
        "message",
        "hash",
        "metadata",
        "metadata",
        "tag",
        "write",
        "delete",
    ]
    message, digest, of_file, of_container, tagged, written, deleted = told
    assert (message["type"], message["message"], message["file_id"]) == ("WARNING", "hello", file)
    assert (digest["file_id"], digest["algorithm"]) == (file, "md5")
    assert (of_file["target"], of_file["id"], of_file["iecodes"]) == ("file", file, ["relation"])
    assert (of_container["target"], of_container["id"], len(of_container["sha256"])) == (
        "container",
        container,
        64,
    )
    assert (tagged["file_id"], tagged["tag"]) == (file, tag)
    assert written == {
        "kind": "write",
        "container": container,
        "path": "/out.txt",
        "version_id": made.version_id,
        "size": 7,
        "sha256": hashlib.sha256(b"written").hexdigest(),
        "created": True,
        "scan": {"found": [], "undecidable": [], "not_checked": []},
    }
    assert deleted["file_id"] == file
    # A message is the runner's own write: it filters it first.
    assert [each["effect"]["kind"] for each in runner.told("intent")] == [each["kind"] for each in told[1:]]


def test_an_effect_that_failed_is_told_as_failed(kernel, runner, namespace):
    from libnova.com.Api import File

    request(namespace)
    with pytest.raises(errors.NotFound):
        File.set_hash("999999999", "md5", "0" * 32)

    (failure,) = settled(runner, "failure")
    assert (failure["effect"]["kind"], failure["effect"]["file_id"]) == ("hash", "999999999")
    assert failure["error"].startswith("NotFound: ")
    assert runner.told("hash") == []


@pytest.mark.parametrize("size", [0, 10, 70_000, 3 * MIB, 20 * MIB + 7])
def test_a_file_read_whole_is_told_with_its_digest(kernel, runner, namespace, connection, container, size):
    """The vendor sample's loop: in order, 8 MiB at a time, and the stream never closed."""
    from libnova.com.Filesystem import S3

    data = os.urandom(size)
    file = stored(connection, container, "a.bin", data)
    namespace["json_sample"]["function_data"]["files"] = {"ids": [file], "paths": []}
    mine = request(namespace)
    stream = S3.File.get_stream(mine.Storage, mine.Files[0])
    while stream.read(8 * MIB):
        pass

    (read,) = settled(runner, "read")
    assert read == {
        "kind": "read",
        "container": container,
        "file_id": file,
        "path": "/a.bin",
        "version_id": stream.version_id,
        "etag": stream.etag,
        "size": size,
        "bytes": size,
        "sha256": hashlib.sha256(data).hexdigest(),
        "complete": True,
    }
    assert [each["effect"]["file_id"] for each in runner.told("intent")] == [file]


def test_a_header_looked_at_first_does_not_hide_the_whole_reading(kernel, runner, connection, container):
    from libnova.com.Filesystem import S3

    data = os.urandom(2 * MIB)
    stream = S3.File.get_stream(None, stored(connection, container, "a.bin", data))
    stream.read(8)
    stream.seek(0)
    stream.read()
    stream.close()

    (read,) = settled(runner, "read")
    assert (read["complete"], read["bytes"]) == (True, len(data) + 8)
    assert read["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_file_read_in_part_or_out_of_order_is_told_without_a_digest(kernel, runner, connection, container):
    from libnova.com.Filesystem import S3

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a", os.urandom(MIB))
    partly = S3.File.get_stream(None, stored(connection, container, "a.bin", os.urandom(2 * MIB)))
    partly.read(MIB)
    partly.close()
    with (
        S3.File.get_stream(None, stored(connection, container, "a.zip", target.getvalue())) as stream,
        zipfile.ZipFile(stream) as archive,
    ):
        archive.read("a")

    first, second = settled(runner, "read", count=2)
    assert (first["bytes"], first["complete"], first["sha256"]) == (MIB, False, None)
    assert (second["complete"], second["sha256"]) == (False, None)
    assert second["bytes"] > MIB


def test_a_stream_that_is_never_closed_is_told_at_the_end(kernel, runner, connection, container):
    from libnova.com.Filesystem import S3

    stream = S3.File.get_stream(None, stored(connection, container, "a.bin", b"x" * 100))
    stream.read(10)
    assert runner.told("read") == []
    session.reset()

    assert settled(runner, "read")[0]["bytes"] == 10


def test_a_killed_kernel_leaves_what_it_was_about_to_do(runner, namespace):
    """The REST server never answers; SIGKILL while the hash is on its way."""
    with ScriptedServer(lambda handler: time.sleep(30)) as stuck, doored(runner) as door:
        code = (
            "import json, sys\n"
            "from libsafe_nb import compat; compat.install()\n"
            "from libsafe_nb.compat import keys, session\n"
            "keys.fill({'json_sample': {'api': {}}}, sys.argv[1], sys.argv[2], 'json_sample')\n"
            "session.initialise(sys.argv[3], 'another-key-of-the-user')\n"
            "from libnova.com.Api import File\n"
            "File.set_hash('7', 'md5', '0' * 32)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(door.path), NONCE, stuck.url])
        settled(runner, "intent")
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert runner.told("intent")[0]["effect"]["file_id"] == "7"
    assert runner.told("hash") == []


def test_the_keys_are_told_to_nobody(kernel, runner, namespace, connection, container):
    from libnova.com.Api import File
    from libnova.com.Filesystem import S3

    mine = request(namespace)
    File.upload(container, "a", b"x")
    S3.File.get_stream(mine.Storage, File.get_by_path(container, "a")).read()
    settled(runner, "read")

    told = json.dumps(runner.events) + repr((mine, mine.Storage, session.current(), session.attached()))
    for secret in (runner.settings.key_user, runner.settings.key_root, runner.settings.s3.secret_key):
        assert secret not in told
        assert secret not in json.dumps(dict(os.environ))


def test_forked_workers_knock_with_connections_of_their_own(kernel, runner, namespace, connection, container):
    """`multiprocessing` as authors use it: eight workers log, hash and read at once."""
    import warnings

    from libnova.com.Api import File
    from libnova.com.Filesystem import S3

    ids = [stored(connection, container, f"{n}.bin", os.urandom(1000)) for n in range(8)]
    namespace["json_sample"]["function_data"]["files"] = {"ids": ids, "paths": []}
    mine = request(namespace)
    mine.log("before")
    children = []
    for file in mine.Files:
        with warnings.catch_warnings():
            # Newer Pythons warn of forking beside threads, which is what the author does here.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 1
            try:
                data = S3.File.get_stream(mine.Storage, file).read()
                for _ in range(5):
                    mine.log(hashlib.md5(data).hexdigest(), "INFO", file.id)
                File.set_hash(file, "md5", hashlib.md5(data).hexdigest())
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    mine.log("after")

    assert statuses == [0] * 8
    assert len(settled(runner, "hash", count=8)) == 8
    assert len(settled(runner, "message", count=42)) == 42
    assert all(each["complete"] for each in settled(runner, "read", count=8))
    assert len(list(connection.client.messages(runner.job))) == 42
