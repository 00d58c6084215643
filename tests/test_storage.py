"""Objects in a real S3 server: written once, never half, and told apart by their bytes."""

import dataclasses
import hashlib
import io
import os
import pickle
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults import CuttingProxy
from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb import errors, s3wire
from libsafe_nb.settings import S3Settings
from libsafe_nb.storage import Storage

MIB = 1024 * 1024
NOWHERE = S3Settings(
    endpoint="http://127.0.0.1:9", bucket="b", access_key="AKIA", secret_key="not-a-secret-key"
)


@pytest.fixture
def storage(connection):
    with_own_connections = Storage(connection.storage.settings)
    yield with_own_connections
    with_own_connections.close()


def versions(storage, container, path):
    return [each for each in storage.versions(container, path) if not each.deleted]


def test_what_is_put_is_got(storage, container):
    stored = storage.put(container, "/a b/é+%.txt", b"hello", metadata={"run": "7"})

    assert storage.get(container, "a b/é+%.txt") == b"hello"
    assert stored.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert stored.created
    found = storage.head(container, "/a b/é+%.txt")
    assert (found.size, found.content_type) == (5, "text/plain")
    assert found.metadata["run"] == "7"
    assert found.version_id == stored.version_id
    assert [(each.path, each.size) for each in storage.list(container)] == [("a b/é+%.txt", 5)]


@pytest.mark.parametrize("size", [0, 1, 65536, 16 * MIB - 1, 16 * MIB, 33 * MIB + 5])
def test_upload_keeps_every_byte(storage, container, tmp_path, size):
    data = os.urandom(1024) * (size // 1024 + 1)
    source = tmp_path / "source"
    source.write_bytes(data[:size])

    stored = storage.upload(container, "big.bin", source)
    target = tmp_path / "target"
    back = storage.download(container, "big.bin", target)

    assert target.read_bytes() == data[:size]
    assert stored.sha256 == back.sha256 == hashlib.sha256(data[:size]).hexdigest()
    assert (stored.size, stored.created) == (size, True)


def test_equal_bytes_are_not_stored_again(storage, container, tmp_path):
    """Known by the digest that our upload left in the object's metadata."""
    source = tmp_path / "a.bin"
    source.write_bytes(os.urandom(17 * MIB))
    first = storage.upload(container, "a.bin", source)
    again = storage.upload(container, "a.bin", source)

    assert (first.created, again.created) == (True, False)
    assert again.version_id == first.version_id
    assert len(versions(storage, container, "a.bin")) == 1


@pytest.mark.parametrize("parts", [1, 2], ids=["etag is an MD5", "etag is of parts"])
def test_equal_bytes_of_another_client_are_not_stored_again(storage, container, parts):
    """Known by the etag where it is an MD5, else by reading what is stored."""
    data = os.urandom(6 * MIB)
    key = {"Bucket": storage.bucket, "Key": f"{container}/theirs.bin"}
    if parts == 1:
        storage.connected.put_object(**key, Body=data)
    else:
        upload = {**key, "UploadId": storage.connected.create_multipart_upload(**key)["UploadId"]}
        sent = [
            {
                "PartNumber": n,
                "ETag": storage.connected.upload_part(**upload, PartNumber=n, Body=body)["ETag"],
            }
            for n, body in ((1, data[: 5 * MIB]), (2, data[5 * MIB :]))
        ]
        storage.connected.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})

    assert not storage.upload(container, "theirs.bin", io.BytesIO(data)).created
    assert storage.upload(container, "theirs.bin", io.BytesIO(data[::-1])).created


def test_other_bytes_become_a_new_version(storage, container):
    first = storage.put(container, "a.txt", b"one")
    second = storage.upload(container, "a.txt", io.BytesIO(b"two"))

    assert second.created
    assert storage.get(container, "a.txt") == b"two"
    assert storage.get(container, "a.txt", version_id=first.version_id) == b"one"
    assert [each.version_id for each in versions(storage, container, "a.txt")] == [
        second.version_id,
        first.version_id,
    ]


def test_a_pipe_is_uploaded_whole(storage, container):
    """Short reads and no seek: what a pipe or a socket gives."""
    data = os.urandom(17 * MIB)
    read_end, write_end = os.pipe()

    def write():
        with os.fdopen(write_end, "wb") as sink:
            sink.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(read_end, "rb", buffering=0) as source:
        stored = storage.upload(container, "piped", source)
    writer.join()

    assert (
        stored.sha256
        == hashlib.sha256(data).hexdigest()
        == hashlib.sha256(storage.get(container, "piped")).hexdigest()
    )


def test_a_file_that_changes_while_it_is_sent_is_not_stored(storage, container):
    class Changing(io.BytesIO):
        def seek(self, *arguments):
            self.getbuffer()[0] ^= 1
            return super().seek(*arguments)

    with pytest.raises(errors.StorageError, match="changed while it was sent"):
        storage.upload(container, "changing", Changing(bytes(20 * MIB)))

    assert not storage.exists(container, "changing")


def test_one_of_sixteen_wins_a_conditional_put(storage, container):
    def race(number):
        try:
            return storage.put(container, "link", b"by %d" % number, if_none_match=True).created
        except errors.PreconditionFailed:
            return False

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(race, range(16))) == 1


def test_a_conditional_put_of_the_stored_bytes_counts_as_done(storage, container):
    first = storage.put(container, "link", b"mine", if_none_match=True)
    again = storage.put(container, "link", b"mine", if_none_match=True)

    assert (first.created, again.created) == (True, False)
    assert again.version_id == first.version_id
    with pytest.raises(errors.PreconditionFailed):
        storage.put(container, "link", b"your", if_none_match=True)


def test_a_lost_answer_of_a_conditional_put_is_settled(storage, container):
    """The put arrives, its answer does not; boto's retry gets 412, and the stored bytes are ours."""
    with CuttingProxy(storage.settings.endpoint, cuts=[0]) as proxy:
        through = Storage(dataclasses.replace(storage.settings, endpoint=proxy.endpoint))
        stored = through.put(container, "link", b"mine" * 1000, if_none_match=True)
        through.close()

    assert proxy.cuts == []
    assert stored.sha256 == hashlib.sha256(b"mine" * 1000).hexdigest()
    assert len(versions(storage, container, "link")) == 1


def test_if_match_guards_against_a_lost_update(storage, container):
    first = storage.put(container, "a", b"one")
    second = storage.put(container, "a", b"two", if_match=first.etag)

    with pytest.raises(errors.PreconditionFailed) as caught:
        storage.put(container, "a", b"three", if_match=first.etag)

    assert storage.get(container, "a") == b"two"
    assert second.etag != first.etag
    assert caught.value.key == f"{container}/a"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_is_not_there_is_told(storage, container):
    for look in (storage.get, storage.head, storage.open):
        with pytest.raises(errors.ObjectNotFound, match="no such object"):
            look(container, "absent")
    storage.delete(container, "absent")

    assert not storage.exists(container, "absent")
    assert list(storage.list(container)) == []


def test_a_deleted_object_keeps_its_versions(storage, container):
    first = storage.put(container, "a", b"one")
    storage.delete(container, "a")

    assert not storage.exists(container, "a")
    assert storage.get(container, "a", version_id=first.version_id) == b"one"
    assert [each.deleted for each in storage.versions(container, "a")] == [True, False]


def test_listing_pages_and_keeps_to_its_container(storage, container):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: storage.put(container, f"d/{n:04}", b"x"), range(1005)))
    storage.put(container, "e", b"y")

    assert [each.path for each in storage.list(container, "/d/")] == [f"d/{n:04}" for n in range(1005)]
    assert len(list(storage.list(container))) == 1006


def test_a_failed_download_leaves_nothing(storage, container, tmp_path):
    with pytest.raises(errors.ObjectNotFound):
        storage.download(container, "absent", tmp_path / "target")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["", "/", "a//b", "a/./b", "../2/b", "a/..", "a/", "//a", "a\0b", "a\nb", "x" * 1100, "\udc80"]
)
def test_paths_that_servers_read_differently_are_refused(path):
    """Before anything is sent: this storage's address answers nothing."""
    storage = Storage(NOWHERE)
    for act in (storage.get, storage.delete, lambda *place: storage.put(*place, b"")):
        with pytest.raises(errors.UsageError):
            act("1", path)


@given(st.text(min_size=1, max_size=40), st.text(max_size=5))
def test_a_key_never_leaves_its_container(path, container):
    try:
        key = Storage(NOWHERE).key(container, path)
    except errors.UsageError:
        return

    first, *rest = key.split("/")
    assert first == container
    assert rest
    assert not {"", ".", ".."} & set(rest)


def test_metadata_that_headers_cannot_carry_is_refused(storage, container):
    with pytest.raises(errors.UsageError, match="printable ASCII"):
        storage.put(container, "a", b"", metadata={"title": "café"})


def test_a_wrong_secret_is_denied_and_never_told(storage, container):
    secret = f"wrong-{uuid.uuid4().hex}"
    wrong = Storage(dataclasses.replace(storage.settings, secret_key=secret))

    with pytest.raises(errors.AccessDenied) as caught:
        wrong.put(container, "a", b"x")
    wrong.close()

    assert secret not in repr((wrong, str(caught.value), caught.value.facts, wrong.settings))


def test_a_store_that_is_away_is_told_in_one_sentence():
    storage = Storage(NOWHERE, budget=0.5)

    with pytest.raises(
        errors.StorageUnreachable,
        match=r"http://127.0.0.1:9: b/1/a: the storage does not answer in \d tr(y|ies) and 0.5 s; the last: ",
    ):
        storage.get("1", "a")
    storage.close()


def test_the_environment_of_aws_is_not_looked_at(storage, container, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    fresh = pickle.loads(pickle.dumps(storage))

    assert fresh.put(container, "a", b"x").created
    fresh.close()


def test_a_short_put_is_sent_without_asking_first(connection, container):
    """The question and its answer took a quarter of the time that a record's file takes to be stored."""
    asked = []
    storage = Storage(connection.settings.s3)
    storage.connected.meta.events.register(
        "before-send.s3.PutObject", lambda request, **_: asked.append("Expect" in request.headers)
    )

    storage.put(container, "short.txt", b"hello")
    storage.put(container, "long.bin", bytes(s3wire.SHORT + 1))

    assert asked == [False, True]
    storage.close()


@pytest.mark.parametrize("limit", [1 << 40, 0], ids=["in one request", "in parts"])
def test_a_copy_is_made_by_the_storage_and_takes_nobodys_place(limit, connection, container, monkeypatch):
    monkeypatch.setattr("libsafe_nb.multipart.COPIED_WHOLE", limit)
    monkeypatch.setattr("libsafe_nb.multipart.COPIED_PART", 5 * 1024 * 1024)
    storage, data = connection.storage, bytes(range(256)) * 4096 * 7
    storage.put(container, "é a.bin", data, content_type="image/tiff", metadata={"note": "kept"})
    before = storage.head(container, "é a.bin")
    storage.put(container, "é a.bin", b"changed since it was looked at")

    storage.copy(container, "é a.bin", "b/c.bin", source=before, if_none_match=True)
    with pytest.raises(errors.PreconditionFailed):
        storage.copy(container, "é a.bin", "b/c.bin", if_none_match=True)

    copied = storage.head(container, "b/c.bin")
    assert storage.get(container, "b/c.bin") == data
    assert (copied.content_type, copied.metadata) == ("image/tiff", before.metadata)


def test_a_delete_on_a_condition_deletes_that_object_and_no_other(connection, container):
    storage = connection.storage
    stored = storage.put(container, "a.txt", b"one")
    storage.put(container, "a.txt", b"two")
    with pytest.raises(errors.PreconditionFailed):
        storage.delete(container, "a.txt", if_match=stored.etag)

    assert storage.get(container, "a.txt") == b"two"
    storage.delete(container, "none.txt", if_match=stored.etag)
