"""What a function itself writes is searched for the keys of the run, on a real platform: no version appears."""

import base64
import gzip
import io
import json
import pickle
import random

import pytest
from test_standin_run import NONCE, Runner, doored, settled

from libsafe_nb import compat, errors
from libsafe_nb.compat import keys, session

MIB = 2**20


@pytest.fixture
def runner(platform, connection, container):
    return Runner(platform.settings, connection.client.create_job(container)["id"])


@pytest.fixture
def kernel(runner):
    """This process as the kernel of a run, with a payload that brings a third key of the author's."""
    compat.install()
    runner.extra = {"key_extra": "p4ss'w\"ord/with+signs=and-é"}
    with doored(runner) as door:
        keys.fill({"json_sample": {"api": {}}}, str(door.path), NONCE, "json_sample")
        yield
        session.reset()
    compat.uninstall()


@pytest.fixture
def versions(connection, container):
    return lambda: [each.path for each in connection.storage.versions(container)]


@pytest.fixture
def key(platform):
    return platform.settings.key_user


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives what it has in pieces of any size."""

    def __init__(self, data, piece=70_001):
        self.data, self.at, self.piece = data, 0, piece

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(len(buffer), self.piece, len(self.data) - self.at)
        buffer[:size] = self.data[self.at : self.at + size]
        self.at += size
        return size


WAYS = {
    "verbatim": (lambda key: f"id,key\n1,{key}\n".encode(), "verbatim"),
    "escaped": (lambda key: "".join(f"\\u{ord(char):04x}" for char in key).encode(), "escaped"),
    "base64": (lambda key: base64.b64encode(b"user:" + key.encode()), "base64"),
    "hex": (lambda key: b"\x00" + key.encode().hex(":").encode(), "hex"),
    "gzip": (lambda key: gzip.compress(key.encode()), "gzip>verbatim"),
    "pickle": (lambda key: pickle.dumps({"k": gzip.compress(key.encode())}), "pickle>gzip>verbatim"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made", ["bytes", "path", "seekable", "pipe"])
def test_a_file_with_a_key_is_refused_and_no_version_appears(
    kernel, runner, container, versions, key, tmp_path, way, made
):
    from libnova.com.Api import File

    write, form = WAYS[way]
    data = write(key)
    (tmp_path / "f").write_bytes(data)
    source = {"bytes": data, "path": tmp_path / "f", "seekable": io.BytesIO(data), "pipe": Pipe(data)}[made]

    with pytest.raises(errors.SecretFound) as caught:
        File.upload(container, "/out/report.csv", source)

    assert versions() == []
    told = f"container {container}, /out/report.csv: not stored, for it holds the key key_user ({form}); "
    assert str(caught.value) == told + "allow_secrets=True stores it all the same"
    assert (caught.value.name, caught.value.form) == ("key_user", form)
    failure = settled(runner, "failure")[0]
    assert "key_user" in failure["error"]
    assert key not in json.dumps(runner.events)


def test_the_other_keys_of_the_run_are_looked_for_too(kernel, container, versions, platform, runner):
    from libnova.com.Api import File

    found = {
        "key_root": platform.settings.key_root,
        "s3_secret_key": platform.settings.s3.secret_key,
        **runner.extra,
    }
    for name, value in found.items():
        with pytest.raises(errors.SecretFound, match=f"holds the key {name} "):
            File.write(container, "x.json", json.dumps({"value": value}))
    assert versions() == []


@pytest.mark.parametrize("place", [16 * MIB - 7, 17 * MIB, 33 * MIB - 20])
@pytest.mark.parametrize("seekable", [True, False], ids=["seekable", "pipe"])
def test_no_boundary_of_parts_hides_a_key(kernel, connection, container, versions, key, place, seekable):
    """Parts of an upload are 16 MiB; those of a pipe are under way when the key is met, and are given up."""
    from libnova.com.Api import File

    data = bytes(place) + base64.b64encode(b"x" + key.encode()) + bytes(33 * MIB - place)

    with pytest.raises(errors.SecretFound):
        File.upload(container, "large.bin", io.BytesIO(data) if seekable else Pipe(data))

    assert versions() == []
    storage = connection.storage
    left = storage.connected.list_multipart_uploads(Bucket=storage.bucket, Prefix=f"{container}/")
    assert not left.get("Uploads")


def test_a_new_version_is_refused_and_the_old_one_stays(kernel, connection, container, versions, key):
    from libnova.com.Api import File

    File.write(container, "a.txt", "harmless")
    with pytest.raises(errors.SecretFound):
        File.write(container, "a.txt", key)

    assert versions() == ["a.txt"]
    assert connection.storage.get(container, "a.txt") == b"harmless"


def test_what_was_looked_for_is_told_with_the_write(kernel, runner, container):
    from libnova.com.Api import File

    File.write(container, "a.txt", "harmless")
    File.upload(container, "cut.gz", gzip.compress(random.Random(1).randbytes(500))[:-40])

    clean, cut = settled(runner, "write", count=2)
    assert clean["scan"] == {"found": [], "undecidable": [], "not_checked": []}
    assert cut["scan"]["undecidable"] == ["it is gzip cut short"]
    assert "secrets_allowed" not in clean


@pytest.mark.parametrize("seekable", [True, False], ids=["seekable", "pipe"])
def test_of_a_large_file_the_forms_are_looked_for_and_the_wrappings_told_not_checked(
    kernel, runner, container, versions, key, seekable
):
    from libnova.com.Api import File

    wrapped = gzip.compress(key.encode()) + bytes(64 * MIB)
    plain = bytes(64 * MIB) + key.encode()

    File.upload(container, "a.bin", io.BytesIO(wrapped) if seekable else Pipe(wrapped, MIB))
    with pytest.raises(errors.SecretFound):
        File.upload(container, "b.bin", io.BytesIO(plain) if seekable else Pipe(plain, MIB))

    scan = settled(runner, "write")[0]["scan"]
    assert scan["not_checked"] == [f"wrappings such as gzip, for the file is larger than {64 * MIB} bytes"]
    assert versions() == ["a.bin"]


@pytest.mark.parametrize("seekable", [True, False], ids=["seekable", "pipe"])
def test_an_author_allows_it_in_so_many_words(kernel, runner, connection, container, key, seekable):
    from libnova.com.Api import File

    data = f"key = {key}".encode()
    File.upload(container, "k.txt", io.BytesIO(data) if seekable else Pipe(data), allow_secrets=True)
    File.write(container, "w.txt", key, allow_secrets=True)

    assert connection.storage.get(container, "k.txt") == data
    told = settled(runner, "write", count=2)
    assert [each["secrets_allowed"] for each in told] == [True, True]
    assert told[0]["scan"]["found"] == [{"name": "key_user", "form": "verbatim"}]
    assert all(each["effect"]["secrets_allowed"] for each in settled(runner, "intent"))
    assert key not in json.dumps(runner.events)


def test_a_signature_of_some_key_is_told_and_stored(kernel, runner, container):
    """Web archives are full of presigned URLs and login headers that are no keys of this run."""
    from libnova.com.Api import File

    File.write(container, "page.html", "https://x.example/a?X-Amz-Signature=" + "9f" * 32)

    assert settled(runner, "write")[0]["scan"]["found"] == [{"name": "signature", "form": "derived"}]


def test_neither_paths_nor_metadata_nor_foreign_messages_hold_a_key(
    kernel, connection, container, versions, key
):
    from libnova.com.Api import File, JobMessage

    with pytest.raises(errors.SecretFound, match="the path of a file"):
        File.write(container, f"/{key}/a.txt", "harmless", allow_secrets=True)
    assert versions() == []
    file = File.write(container, "a.txt", "harmless")
    with pytest.raises(errors.SecretFound, match=f"metadata of file {file.id}"):
        File.set_metadata(file, {"relation": key})
    other = connection.client.create_job(container)["id"]
    JobMessage.create(other, f"the key is {key}")

    assert not connection.client.metadata(file.id)
    said = [each["message"] for each in connection.client.messages(other)]
    assert said == ["the key is [redacted:key_user]"]


def test_outside_a_run_the_same_holds_with_the_keys_of_the_payload(
    platform, connection, container, versions, key, monkeypatch
):
    s3 = platform.settings.s3
    for name in ("endpoint", "bucket", "access_key", "secret_key"):
        monkeypatch.setenv(f"LIBSAFE_S3_{name.upper()}", getattr(s3, name))
    compat.install()
    from libnova.com.Api import File

    session.use({"url": platform.settings.url, "key_user": key, "key_root": platform.settings.key_root})
    try:
        for value in (key, platform.settings.key_root, s3.secret_key):
            with pytest.raises(errors.SecretFound):
                File.upload(container, "x", Pipe(value.encode()))
        File.write(container, "y", "harmless")
        assert key not in repr(vars(session.current())["_known"])
    finally:
        session.reset()
        compat.uninstall()
    assert versions() == ["y"]


def test_keys_of_a_second_platform_count_beside_those_of_the_run(kernel, platform, container, versions, key):
    from libnova.com.Api import Driver, File

    Driver.initialise(platform.settings.url, platform.settings.key_root)

    with pytest.raises(errors.SecretFound, match="key_user"):
        File.write(container, "x", key)
    assert versions() == []
