"""The stand-in `libnova` on a real platform: what authors call, and what they find afterwards."""

import hashlib
import io
import json
import os
import threading
import types

import pytest

from libsafe_nb import compat, errors
from libsafe_nb.compat import session

SAMPLE_KEY = "1234567890abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def libnova():
    compat.install()
    import libnova

    yield libnova
    session.reset()
    compat.uninstall()


@pytest.fixture
def payload(platform, connection, container):
    """A payload with real keys, a new job, and no files."""
    job = connection.client.create_job(container)["id"]
    settings = platform.settings
    return {
        "api": {
            "url": settings.url.removesuffix("/api"),
            "key_user": settings.key_user,
            "key_root": settings.key_root,
        },
        "function_data": {
            "container": {"id": container},
            "user": {"id": "1"},
            "files": {"ids": [], "paths": []},
            "job": {"id": job},
            "trigger": {"id": "0", "type": "", "regex": ""},
            "function": {"id": "0", "key": ""},
        },
        "function_params": {"your_custom_parameter": "custom_parameter_value"},
    }


@pytest.fixture(autouse=True)
def local_platform(platform, monkeypatch):
    """S3 credentials do not travel in a payload: they come from the settings, as on an author's machine."""
    s3 = platform.settings.s3
    monkeypatch.setenv("LIBSAFE_S3_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("LIBSAFE_S3_BUCKET", s3.bucket)
    monkeypatch.setenv("LIBSAFE_S3_ACCESS_KEY", s3.access_key)
    monkeypatch.setenv("LIBSAFE_S3_SECRET_KEY", s3.secret_key)


def stored(connection, container, path, data):
    connection.storage.put(container, path, data)
    return connection.client.file_by_path(container, path)["id"]


def event(payload):
    return type("", (object,), {"body": json.dumps(payload)})()


def request(payload):
    from libnova.com.Nuclio.Request import Request

    return Request(None, event(payload))


def test_the_vendors_sample_runs_verbatim(vendor_sample, payload, connection, container, capsys):
    """The page's code as it stands, only its payload filled in: 9 messages, 3 hashes a file, COMPLETED."""
    contents = {"a.txt": b"one", "d/b.bin": os.urandom(20 * 2**20), "empty": b""}
    ids = {stored(connection, container, path, data): data for path, data in contents.items()}
    payload["function_data"]["files"]["ids"] = list(ids)
    start = vendor_sample.index("json_sample = {")
    end = vendor_sample.index("\n}\n", start) + 3
    code = (
        vendor_sample[:start] + f"json_sample = json.loads({json.dumps(payload)!r})\n" + vendor_sample[end:]
    )

    exec(compile(code, "sample.py", "exec"), {"__name__": "__main__"})

    job = payload["function_data"]["job"]["id"]
    assert connection.client.job(job)["status"] == "COMPLETED"
    messages = list(connection.client.messages(job))
    hashed = [each for each in messages if each["message"].startswith("File hash calculated")]
    assert len(hashed) == 9
    for file, data in ids.items():
        expected = {name: hashlib.new(name, data).hexdigest() for name in ("md5", "sha1", "sha256")}
        assert connection.client.file(file)["hashes"] == expected
        told = [each["message"].rpartition(" ")[2] for each in hashed if each["file_id"] == file]
        assert told == list(expected.values())
    assert f"File {next(iter(ids))} has no metadata" in [each["message"] for each in messages]


def test_a_handler_of_the_newer_layout_runs_unchanged(payload, connection, container):
    """Shaped like the one public Function of 2024: bytes body, context.logger, JSON strings for metadata."""
    from libnova.common.api import File
    from libnova.common.api.JobMessage import JobMessageType
    from libnova.common.nuclio.Request import Request

    def handler(context, event):
        context.logger.info(event.body.decode("utf-8"))
        helper = Request(context, event)
        helper.job_init()
        helper.log("Starting")
        for file_id in helper.JSONData["function_data"]["files"]["ids"]:
            if File.get_metadata(file_id, flatten=True) is None:
                File.set_metadata(file_id, '{"metadata": [{"iecode": "relation", "value": "aspace:1"}]}')
            File.set_metadata_values(file_id, '[{"iecode": "subject", "value": ["a", "b"]}]')
            helper.log("done", JobMessageType.INFO, file_id)
        helper.job_end(True)

    file = stored(connection, container, "a.txt", b"x")
    payload["function_data"]["files"]["ids"] = [file]
    lines = []
    context = types.SimpleNamespace(logger=types.SimpleNamespace(info=lines.append))
    handler(context, types.SimpleNamespace(body=json.dumps(payload).encode()))

    assert lines
    assert connection.client.job(payload["function_data"]["job"]["id"])["status"] == "COMPLETED"
    assert File.get_metadata(file, True) == {"relation": "aspace:1", "subject": ["a", "b"]}
    assert {"iecode": "relation", "value": ["aspace:1"]} in File.get_metadata(file)


@pytest.mark.parametrize(
    "body",
    [
        '{"metadata": [{"iecode": "c_title", "value": "x"}]}',
        {"metadata": [{"iecode": "c_title", "value": "x"}]},
        '[{"iecode": "c_title", "value": ["x"]}]',
        [{"iecode": "c_title", "value": "x", "action": "replace"}],
        {"iecode": "c_title", "value": "x"},
        {"c_title": "x"},
        b'{"c_title": "x"}',
    ],
    ids=str,
)
def test_metadata_is_taken_in_every_form_seen(payload, connection, container, body):
    from libnova.com.Api import Container, File

    request(payload)
    file = stored(connection, container, "a.txt", b"x")
    for module, target in ((File, file), (Container, container)):
        assert module.get_metadata(target, True) is None
        module.set_metadata(target, body)
        assert module.get_metadata(target, True) == {"c_title": "x"}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("not JSON", "expected JSON text"),
        ("7", "a list of descriptors"),
        ([{"value": "x"}], r"metadata\[0\].iecode"),
        ([{"iecode": "a", "value": "x"}, {"iecode": "b"}], r"metadata\[1\].value"),
        ([{"iecode": "a", "value": "x", "action": "merge"}], r"metadata\[0\].action"),
        ({"metadata": ["x"]}, r"metadata\[0\]"),
    ],
)
def test_metadata_of_no_known_form_is_refused_before_it_is_sent(payload, body, place):
    from libnova.com.Api import File

    request(payload)

    with pytest.raises(errors.UsageError, match=place):
        File.set_metadata("1", body)


def test_hashes_are_checked_before_they_are_stored(payload, connection, container):
    from libnova.com.Api import File

    request(payload)
    file = stored(connection, container, "a.txt", b"x")
    File.set_hash(file, "SHA-256", hashlib.sha256(b"x").hexdigest().upper())

    assert File.get_hashes(file) == {"sha256": hashlib.sha256(b"x").hexdigest()}
    for value in ("", "xyz", "ab" * 10):
        with pytest.raises(errors.UsageError, match="expected 32 hex digits"):
            File.set_hash(file, "md5", value)


def test_get_stream_answers_none_for_what_cannot_be_read(payload, connection, container):
    from libnova.com.Filesystem import S3

    client = connection.client
    deleted, gone, cold, good = (stored(connection, container, f"{n}.txt", b"x") for n in range(4))
    client.create_folder(container, "folder")
    folder = client.file_by_path(container, "folder")["id"]
    payload["function_data"]["files"]["ids"] = [deleted, gone, cold, good, folder, "999999999"]
    files = list(request(payload).Files)
    before = files[1]
    client.delete_file(deleted)
    client.set_storage_class(cold, OFFLINE_CLASS)
    connection.storage.delete(container, "1.txt")
    mine = request(payload)
    found = [S3.File.get_stream(mine.Storage, each) for each in mine.Files]

    assert [each is not None for each in found] == [False, False, False, True, False, False]
    assert S3.File.get_stream(mine.Storage, before) is None
    assert found[3].read() == b"x"
    assert S3.File.get_stream(None, good).read() == b"x"


OFFLINE_CLASS = "2"


def test_files_are_looked_up_in_batches_and_in_order(payload, connection, container, monkeypatch):
    from libsafe_nb.compat import files

    monkeypatch.setattr(files, "BATCH", 10)
    connection.client.import_files(container, ({"path": f"/d/{n:03}.txt", "size": n} for n in range(35)))
    rows = [row for row in connection.client.files(container) if row["type"] == "FILE"]
    ids = [row["id"] for row in rows][::-1]
    payload["function_data"]["files"]["ids"] = ids
    calls = []
    mine = request(payload)
    envelope = session.current().client._envelope
    monkeypatch.setattr(
        session.current().client,
        "_envelope",
        lambda name, *a, **k: calls.append(name) or envelope(name, *a, **k),
    )

    assert [each.id for each in mine.Files] == ids
    assert calls == ["file_search"] * 4
    assert len(mine.Files) == 35
    assert mine.Files[-1].id == ids[-1]
    assert [each.id for each in mine.Files[3:14]] == ids[3:14]
    assert mine.Files[0].fullpath == "/d/034.txt"
    with pytest.raises(IndexError):
        mine.Files[35]


def test_files_may_be_named_by_path(payload, connection, container):
    ids = [stored(connection, container, path, b"x") for path in ("a.txt", "d/b.txt")]
    payload["function_data"]["files"]["paths"] = ["/a.txt", "d/b.txt", "/absent.txt"]
    found = list(request(payload).Files)

    assert [each.id for each in found] == [*ids, ""]
    assert [each.deleted for each in found] == [0, 0, 1]


def test_no_files_are_no_files(payload):
    assert list(request(payload).Files) == []
    assert not request(payload).Files


def test_the_request_offers_the_payload(payload):
    mine = request(payload)

    assert mine.JSONData == payload
    assert mine.function_params == {"your_custom_parameter": "custom_parameter_value"}
    assert payload["api"]["key_user"] not in repr((mine, mine.Storage, mine.Files, session.current()))
    assert mine.Storage.bucket


@pytest.mark.parametrize(
    ("body", "place"),
    [("not JSON", "JSON"), ({}, "function_data"), ({"function_data": {"container": {"id": "x"}}}, "id")],
)
def test_a_body_that_is_no_payload_is_told_by_its_place(body, place):
    from libnova.com.Nuclio.Request import Request

    with pytest.raises(errors.PayloadError, match=place):
        Request(None, types.SimpleNamespace(body=body))


def test_messages_have_types_and_files(payload, connection, container):
    from libnova.com.Api import JobMessage

    file = stored(connection, container, "a.txt", b"x")
    mine = request(payload)
    mine.job_init()
    mine.log("plain")
    mine.log("bad", JobMessage.JobMessageType.ERROR, file)
    mine.log({"a": [1, "é"]}, "warning")
    mine.job_end(False)
    mine.log("after the end")
    job = payload["function_data"]["job"]["id"]

    told = [(each["type"], each["message"], each["file_id"]) for each in connection.client.messages(job)]
    assert told[:2] == [("INFO", "plain", None), ("ERROR", "bad", file)]
    assert (told[2][0], json.loads(told[2][1])) == ("WARNING", {"a": [1, "é"]})
    assert told[3][1] == "after the end"
    assert connection.client.job(job)["status"] == "FAILED"


def test_false_is_never_raised_to_true(payload, connection):
    mine = request(payload)
    mine.job_init()
    mine.job_end(False)
    mine.job_end(True)
    mine.job_end(False)

    assert connection.client.job(mine.job_id)["status"] == "FAILED"


def test_a_payload_without_a_job_says_so(payload):
    payload["function_data"]["job"]["id"] = ""
    mine = request(payload)

    with pytest.raises(errors.PayloadError, match=r"function_data\.job\.id"):
        mine.log("x")


def test_a_file_is_written_from_bytes_text_path_and_stream(payload, connection, container, tmp_path):
    from libnova.com.Api import File

    request(payload)
    (tmp_path / "local").write_bytes(b"from disk")
    first = File.upload(container, "/out/a.bin", b"bytes")
    again = File.upload(container, "out/a.bin", io.BytesIO(b"bytes"))
    File.upload(container, "out/b.bin", tmp_path / "local")
    File.write(container, "out/c.txt", "é")

    assert (first.created, again.created) == (True, False)
    assert first.id == again.id == connection.client.file_by_path(container, "out/a.bin")["id"]
    assert first.sha256 == hashlib.sha256(b"bytes").hexdigest()
    assert connection.storage.get(container, "out/b.bin") == b"from disk"
    assert connection.storage.get(container, "out/c.txt").decode() == "é"
    with pytest.raises(errors.UsageError, match="expected bytes, a Path or a stream"):
        File.upload(container, "out/d", "text")


def test_a_new_version_is_the_one_that_is_answered(payload, container):
    from libnova.com.Api import File

    request(payload)
    File.upload(container, "a", b"one")
    second = File.upload(container, "a", b"twotwo")

    assert (File.get(second).size, File.get(second).version_id) == (6, second.version_id)
    assert len(File.get_versions(second)) == 2


def test_what_else_an_author_would_expect(payload, connection, container):
    from libnova.com.Api import Container, Driver, File, Job

    request(payload)
    file = stored(connection, container, "d/a.txt", b"x")
    tag = connection.client.create_tag(f"tag of {container}")["id"]

    assert Container.get(container).id == container
    assert container in {each.id for each in Container.list()}
    assert {each.fullpath for each in Container.get_files(container)} == {"/d", "/d/a.txt"}
    assert [each.id for each in File.list(container) if each.type == "FILE"] == [file]
    assert File.get_by_path(container, "/d/a.txt").id == file
    assert File.get_by_path(container, "absent") is None
    found = File.search(
        [
            {"property": "container_id", "operator": "eq", "value": container},
            {"property": "filename", "operator": "like", "value": "%.txt"},
        ]
    )
    assert [each.id for each in found] == [file]
    File.add_tag(file, tag)
    assert File.get_tags(file) == [tag]
    File.remove_tag(file, tag)
    assert File.get_tags(file) == []
    File.delete(file)
    assert File.get(file).deleted == 1
    File.restore(file)
    assert File.get(file).deleted == 0
    Container.create_folder(container, "new/folder")
    Container.create_folder(container, "new/folder")
    assert File.get_by_path(container, "new/folder").type == "FOLDER"
    made = Container.create("made by a function", "described")
    assert Container.get(made).name == "made by a function"
    job = payload["function_data"]["job"]["id"]
    Job.set_status(job, "RUNNING")
    Job.set_progress(job, 0.5)
    assert (Job.get_status(job), Job.get(job).progress) == ("RUNNING", 0.5)
    assert Driver.get(f"/file/{file}")["id"] == file
    Driver.put(f"/file/{file}/hash", {"algorithm": "md5", "value": "0" * 32})
    assert File.get_hashes(file)["md5"] == "0" * 32


def test_items_are_attributes_and_json(payload, container):
    from libnova import Util
    from libnova.com.Api import Container

    request(payload)
    found = Container.get(container)

    assert json.loads(Util.format_json_item(found)) == found
    assert Util.parse_json_item(Util.format_json_item([found])) == [found]
    with pytest.raises(AttributeError, match="no 'absent' in this object of the platform; it has "):
        _ = found.absent


@pytest.mark.parametrize(
    "key", [SAMPLE_KEY, "", {"$secret": "key_user"}], ids=["the page's sample", "empty", "placeholder"]
)
def test_a_payload_without_a_key_of_its_own_takes_the_settings(payload, platform, monkeypatch, key):
    payload["api"] = {"url": "http://go.libnova.com", "key_user": key, "key_root": key}
    monkeypatch.setenv("LIBSAFE_URL", platform.settings.url)
    monkeypatch.setenv("LIBSAFE_KEY_USER", platform.settings.key_user)

    request(payload).job_init()

    assert session.current().url == platform.settings.url


def test_without_any_platform_one_sentence_says_what_to_do(payload, monkeypatch):
    payload["api"] = {"url": "http://go.libnova.com", "key_user": SAMPLE_KEY, "key_root": SAMPLE_KEY}

    with pytest.raises(errors.SettingsError, match=r"LIBSAFE_URL.*libsafe-nb local serve"):
        request(payload)


def test_the_running_local_platform_is_found(payload, platform, monkeypatch, tmp_path):
    for name in ("ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.delenv(f"LIBSAFE_S3_{name}")
    monkeypatch.setenv("LIBSAFE_NB_HOME", str(tmp_path))
    (tmp_path / "platform").symlink_to(platform.root)
    payload["api"] = {}

    mine = request(payload)

    assert session.current().url == platform.settings.url
    assert mine.Storage.endpoint == platform.settings.s3.endpoint


def test_s3_of_another_platform_is_not_used(payload, platform, monkeypatch):
    """A key for one platform and S3 settings for another must not be mixed."""
    from libnova.com.Api import File

    monkeypatch.setenv("LIBSAFE_URL", "http://elsewhere.example")
    request(payload)

    with pytest.raises(errors.SettingsError, match="S3 credentials are needed"):
        File.upload("1", "a", b"x")


def test_nothing_is_left_behind(payload, connection, container):
    from libnova.com.Filesystem import S3

    payload["function_data"]["files"]["ids"] = [stored(connection, container, "a", os.urandom(20 * 2**20))]
    mine = request(payload)
    stream = S3.File.get_stream(mine.Storage, mine.Files[0])
    stream.read(3 * 2**20)
    stream.read(2**20)
    stream.close()

    assert not [each for each in threading.enumerate() if each.name in ("read-ahead", "read-digest")]
