"""Every call of the client on the real local platform."""

import io
import uuid

import pytest

from libsafe_nb import errors
from libsafe_nb.client import Client


@pytest.fixture
def client(platform):
    with Client.of(platform.settings) as opened:
        yield opened


@pytest.fixture
def root(platform):
    with Client.of(platform.settings, root=True) as opened:
        yield opened


@pytest.fixture
def file(connection, client, container):
    connection.storage.put(container, "d/a.txt", b"hello")
    return client.file_by_path(container, "d/a.txt")["id"]


def test_who_and_where(client):
    client.health()

    assert client.honours_idempotency()
    assert client.me()["id"] == "1"
    assert repr(client) == f"Client({client.url!r})"


def test_a_container_and_its_metadata(client):
    made = client.create_container(
        "a title", description="about", fields={"workflow_id": "7", "storage_id": "1"}
    )

    assert client.container(made["id"])["name"] == "a title"
    assert made["id"] in {each["id"] for each in client.containers()}
    assert client.container_metadata(made["id"]) is None
    client.set_container_metadata(made["id"], [{"iecode": "c_title", "value": "x", "action": "replace"}])
    assert client.container_metadata(made["id"]) == [{"iecode": "c_title", "value": ["x"]}]


def test_a_file_and_all_that_is_known_of_it(client, file, container):
    client.set_hash(file, "md5", "5d41402abc4b2a76b9719d911017c592")
    client.set_hashes([{"id": file, "algorithm": "sha1", "value": "a" * 40}])
    client.set_metadata(file, [{"iecode": "relation", "value": "one"}])
    client.set_metadata(file, [{"iecode": "relation", "value": ["two"], "action": "add"}])
    client.set_metadata_of_many([{"id": file, "metadata": [{"iecode": "c_identifier", "value": 7}]}])
    found = client.file(file)

    assert found["hashes"] == {"md5": "5d41402abc4b2a76b9719d911017c592", "sha1": "a" * 40}
    assert (found["fullpath"], found["size"], found["container_id"]) == ("/d/a.txt", 5, container)
    known = {each["iecode"]: each["value"] for each in client.metadata(file)}
    assert known["relation"] == ["one", "two"]
    assert len(client.file_versions(file)) == 1


def test_delete_and_restore(client, file):
    client.delete_file(file)
    assert client.file(file)["deleted"] == 1
    client.restore_file(file)
    assert client.file(file)["deleted"] == 0


def test_tags(client, file):
    tag = client.create_tag(f"checked {uuid.uuid4()}")["id"]
    client.tag_file(file, tag)

    assert client.file(file)["tags"] == [tag]
    assert tag in {each["id"] for each in client.tags()}
    client.untag_file(file, tag)
    assert client.file(file)["tags"] == []
    client.delete_tag(tag)
    assert tag not in {each["id"] for each in client.tags()}


def test_upload_over_rest(client, connection, container, monkeypatch):
    monkeypatch.setattr("libsafe_nb.client.CHUNK", 1000)
    data = bytes(range(256)) * 10
    found = client.upload_file(container, io.BytesIO(data), name="a b.bin", folder="/in/")
    client.upload_file(container, io.BytesIO(b""), name="empty")

    assert connection.storage.get(container, "in/a b.bin") == data
    assert (found["fullpath"], found["size"]) == ("/in/a b.bin", len(data))
    assert client.file_by_path(container, "empty")["size"] == 0


def test_listings_and_search_page(client, root, container):
    assert root.import_files(container, ({"path": f"/d/{n:04}.bin", "size": n} for n in range(2500))) == 2500

    listed = [each["fullpath"] for each in client.files(container, page=700) if each["type"] == "FILE"]
    conditions = [
        {"property": "container_id", "operator": "eq", "value": container},
        {"property": "size", "operator": "gte", "value": 1000},
        {"property": "filename", "operator": "ends_with", "value": ".bin"},
    ]
    found = [each["size"] for each in client.search(conditions, page=400)]

    assert sorted(listed) == [f"/d/{n:04}.bin" for n in range(2500)]
    assert sorted(found) == list(range(1000, 2500))


def test_a_job_from_its_start_to_its_end(client, container, file):
    parent = client.create_job(container, name="parent")["id"]
    job = client.create_job(container, name="child", function_key="hash-files", parent=parent, files=[file])[
        "id"
    ]
    client.update_job(job, status="RUNNING", progress=0.25)
    client.message(job, "one", file=file)
    client.message_many(job, [{"type": "ERROR", "message": "two"}, {"type": "DEBUG", "message": "three"}])
    client.update_job(job, status="COMPLETED", result={"hashed": 1})
    found = client.job(job)

    assert (found["status"], found["result"], found["parent_id"]) == ("COMPLETED", {"hashed": 1}, parent)
    assert found["function_key"] == "hash-files"
    assert [(each["type"], each["message"], each["file_id"]) for each in client.messages(job)] == [
        ("INFO", "one", file),
        ("ERROR", "two", None),
        ("DEBUG", "three", None),
    ]
    assert job in {each["id"] for each in client.jobs(status="COMPLETED", container=container)}
    assert client.update_job(job, status="COMPLETED")["status"] == "COMPLETED"
    with pytest.raises(errors.Conflict):
        client.update_job(job, status="FAILED")


def test_a_write_repeated_with_its_key_acts_once(client, container):
    job = client.create_job(container)["id"]
    key = uuid.uuid4().hex
    first = client.message(job, "once", idempotency_key=key)
    again = client.message(job, "once", idempotency_key=key)

    assert first["id"] == again["id"]
    assert len(list(client.messages(job))) == 1


def test_another_user_sees_what_was_granted_only(root, client, platform, container):
    user = root.create_user(f"user {uuid.uuid4()}")
    with Client(platform.settings.url, user["key"]) as other:
        with pytest.raises(errors.Forbidden):
            other.container(container)
        root.grant(container, user["id"])
        assert other.container(container)["id"] == container
        s3 = root.create_s3(user["id"])
        assert s3["access_key"]
        root.revoke_s3(user["id"])
        root.revoke_key(user["id"])
        with pytest.raises(errors.PlatformError) as caught:
            other.me()
    assert caught.value.status in (401, 403)


def test_a_wrong_key_is_told_and_not_shown(platform):
    with (
        Client(platform.settings.url, "wrong-key-wrong-key-wrong") as client,
        pytest.raises(errors.Unauthorized) as caught,
    ):
        client.me()
    assert "wrong-key" not in str(caught.value)


def test_what_is_not_there(client):
    for look in (client.file, client.job, client.container):
        with pytest.raises(errors.NotFound):
            look("999999999")


def test_a_notebook_is_opened_by_who_may(client, connection, container):
    connection.storage.put(container, "nb/a.ipynb", b"{}")

    assert client.open_notebook(container, "/nb/a.ipynb")


def test_an_offline_class(client, file):
    client.set_storage_class(file, "2")
    assert client.file(file)["online"] is False
    client.set_storage_class(file, "1")
    assert client.file(file)["online"] is True


def test_folders(client, container):
    client.create_folder(container, "/a/b/")
    client.create_folder(container, "a/b")

    assert client.file_by_path(container, "a/b")["type"] == "FOLDER"
