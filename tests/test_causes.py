"""Whose write it was: a function's own start nothing, and nobody else's pass for them."""

import contextlib
import importlib
import time
import types
import uuid

import boto3
import pytest
from botocore.config import Config
from conftest import REQUEST
from engine_runs import wait_for

from libsafe_nb import marks
from libsafe_nb.client import JOB_HEADER, Client
from libsafe_nb.compat.layout import MODULES
from libsafe_nb.shapes import FILE_TRIGGERS

WRITES = {
    "File.set_metadata": 'File.set_metadata(file, {"relation": "a"}); File.set_metadata(file, {"relation": "b"})',
    "File.set_metadata_values": """File.set_metadata_values(file, '[{"iecode": "relation", "value": ["a"]}]')
File.set_metadata_values(file, '[{"iecode": "relation", "value": []}]')""",
    "File.set_hash": 'File.set_hash(file, "md5", "0" * 32)',
    "File.upload": 'File.upload(here, path, b"new"); File.upload(here, path + ".more", b"new")',
    "File.upload in parts": 'File.upload(here, path, io.BytesIO(b"x" * (17 * 2**20)))',
    "File.write": 'File.write(here, path, "new"); File.write(here, path + ".more", "new")',
    "File.delete": "File.delete(file)",
    "File.restore": "File.delete(file); File.restore(file)",
    "File.add_tag": "File.add_tag(file, Driver.post('tag', {'name': path})['id'])",
    "File.remove_tag": "tag = Driver.post('tag', {'name': path})['id']; File.add_tag(file, tag); File.remove_tag(file, tag)",
    "Container.create": "Container.create('one more')",
    "Container.create_folder": "Container.create_folder(here, path + '.folder')",
    "Container.set_metadata": "Container.set_metadata(here, {'relation': 'a'})",
    "Driver.put": "Driver.put(f'file/{file}/metadata', {'metadata': [{'iecode': 'relation', 'value': 'a'}]})",
    "Driver.post": "Driver.post('file/bulk/metadata', {'items': [{'id': file, 'metadata': [{'iecode': 'relation', 'value': 'a'}]}]})",
    "Driver.post of a restore": "Driver.delete(f'file/{file}'); Driver.post(f'file/{file}/restore')",
    "Driver.delete": "Driver.delete(f'file/{file}')",
    "Driver.get": "Driver.get(f'container/{here}/notebook' + path)",
    "Driver.initialise": "Driver.initialise(json_sample['api']['url'], json_sample['api']['key_user']); File.write(here, path, 'new')",
    "Driver.initialize": "Driver.initialize(json_sample['api']['url'], json_sample['api']['key_user']); Driver.delete(f'file/{file}')",
    "Job.set_progress": "Job.set_progress(job, 0.5)",
    "Job.set_status": "Job.set_status(job, 'RUNNING')",
    "JobMessage.create": "JobMessage.create(job, 'said', file_id=file)",
    "S3File.get_stream": "S3File.get_stream(request.Storage, file).read()",
    "libsafe-nb job": """open('local', 'w').write('new')
for each in (['put', 'local', '--to', path], ['metadata', file, 'relation=c'], ['hash', file, 'md5', '0' * 32]):
    subprocess.run(['libsafe-nb', 'job', *each], check=True)""",
}
"""What a function can do to a file of its own, by the name of the stand-in; `file`, `path`, `here` and `job` are given."""
READS = {
    "File": {
        "get",
        "get_by_path",
        "get_hashes",
        "get_metadata",
        "get_tags",
        "get_versions",
        "list",
        "search",
    },
    "Container": {"get", "get_files", "get_metadata", "list"},
    "Job": {"get", "get_messages", "get_status"},
    "JobMessage": {"list", "JobMessageType"},
    "Driver": set(),
    "S3File": set(),
    "S3Storage": {"Storage", "get"},
    "Request": {"Request"},
    "Util": {"format_json_item", "parse_json_item"},
}
"""Names of the stand-in that change nothing."""

ALL = (
    REQUEST
    + """
import io, subprocess
from libnova.common.api import Container, Driver, Job, JobMessage
from libnova.common.filesystem.s3 import File as S3File
here, job = request.container_id, request.job_id
for each, write in zip(request.Files, WRITTEN):
    file, path = each.id, each.fullpath
    exec(write)
request.job_end(True)
"""
)


def stays(check, seconds=2.5):
    """That nothing comes is only seen by waiting."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert check()
        time.sleep(0.1)


def test_the_table_of_writes_has_every_name_of_the_stand_in():
    homes = {"s3_file": "S3File", "s3_storage": "S3Storage", "job_message": "JobMessage"}
    for home in sorted(set(MODULES.values())):
        module = importlib.import_module(f"libsafe_nb.compat.standin.{home}")
        name = homes.get(home, home.title())
        public = getattr(module, "__all__", None) or [
            key
            for key, value in vars(module).items()
            if isinstance(value, types.FunctionType) and not key.startswith("_")
        ]
        written = {
            each.partition(" ")[0].removeprefix(f"{name}.") for each in WRITES if each.startswith(f"{name}.")
        }
        assert written | READS.get(name, set()) == set(public), name


def test_whatever_a_function_does_to_its_own_files_does_not_start_it(
    functions, publish, container, connection
):
    key = publish(ALL.replace("WRITTEN", repr(list(WRITES.values()))))
    names = [f"{number:02}.ipynb" for number in range(len(WRITES))]
    for name in names:
        connection.storage.put(container, name, b"{}")
    ids = [connection.client.file_by_path(container, name)["id"] for name in names]
    for kind in FILE_TRIGGERS:
        functions.add_trigger(key, kind, container_id=container, batch_seconds=0)
    call = functions.call(key, container=container, files=ids)
    wait_for(lambda: functions.get_call(call["id"])["status"] not in ("queued", "running"), 120)
    assert functions.get_call(call["id"])["status"] == "completed", functions.get_call(call["id"])["error"]
    # What the platform has not heard of yet it hears of now.
    for name in names:
        assert connection.client.search([{"property": "fullpath", "operator": "eq", "value": f"/{name}"}])

    def only_the_first():
        others = [each for each in functions.calls(function=key) if each["id"] != call["id"]]
        told = [(each["trigger"]["type"], functions.get_call(each["id"])["file_ids"]) for each in others]
        about = [
            (kind, [list(WRITES)[ids.index(file)] if file in ids else file for file in files])
            for kind, files in told
        ]
        assert not about
        return True

    stays(only_the_first)


def test_every_request_says_whose_it_is(monkeypatch, platform):
    sent = []
    with Client(platform.settings.url, platform.settings.key_user, job="77") as client:
        monkeypatch.setattr(
            client._transport, "send", lambda request: sent.append(request.headers or {}) or {"result": []}
        )
        client.call("health")
        client.request("PUT", "file/1/metadata", json={})
        list(client.files("1"))
    assert [each.get(JOB_HEADER) for each in sent] == ["77"] * 3


# Objects and their marks ------------------------------------------------------------------------------------------


class Watched:
    """A function that is not started, watching one container, and a job of it that is open."""

    def __init__(self, functions, publish, connection, container, kinds=("file_created", "file_updated")):
        self.functions, self.connection, self.container = functions, connection, container
        self.key = publish("print(1)")
        functions.update(self.key, paused=True)
        for kind in kinds:
            functions.add_trigger(self.key, kind, container_id=container, path_regex="^/in/", batch_seconds=0)
        self.job = functions.call(self.key, container=container)["job_id"]

    def mark(self, path, container=None):
        key = self.connection.client.job_key(self.job)
        return {marks.NAME: marks.mark(self.job, container or self.container, path, key)}

    def files(self):
        return sum(each["files"] for each in self.functions.calls(function=self.key))

    def gets(self, count):
        wait_for(lambda: self.files() >= count, 20)
        stays(lambda: self.files() == count, 1.0)


@pytest.fixture
def watched(functions, publish, connection, container):
    made = Watched(functions, publish, connection, container)
    yield made
    for each in functions.calls(function=made.key, status="queued"):
        functions.cancel(each["id"])


@pytest.fixture
def result(watched, connection):
    """A result of the function, in the folder that it watches: it started nothing."""
    connection.storage.put(watched.container, "in/result", b"new", metadata=watched.mark("in/result"))
    connection.client.file_by_path(watched.container, "in/result")
    stays(lambda: watched.files() == 0, 1.0)
    return "in/result"


def s3_of(s3):
    return boto3.client(
        "s3",
        endpoint_url=s3["endpoint"],
        aws_access_key_id=s3["access_key"],
        aws_secret_access_key=s3["secret_key"],
        region_name=s3["region"],
        config=Config(s3={"addressing_style": "path"}),
    )


def test_a_users_copy_of_a_result_is_a_file_like_any_other(watched, result, connection, platform):
    s3 = platform.settings.s3
    names = ("endpoint", "access_key", "secret_key", "region")
    anybody = s3_of({name: getattr(s3, name) for name in names})
    anybody.copy_object(
        Bucket=s3.bucket,
        Key=f"{watched.container}/in/copied",
        CopySource={"Bucket": s3.bucket, "Key": f"{watched.container}/{result}"},
    )
    anybody.close()
    watched.gets(1)


def test_our_copy_of_a_result_says_nothing_of_its_job_and_keeps_the_rest(watched, result, connection):
    storage = connection.storage
    storage.copy(watched.container, result, "in/copied")
    watched.gets(1)
    before, after = (storage.head(watched.container, path) for path in (result, "in/copied"))
    assert after.content_type == before.content_type
    assert after.metadata == {name: value for name, value in before.metadata.items() if name != marks.NAME}
    # An older version is brought back so: under its own name, for which the mark was good.
    storage.copy(watched.container, result, result, source=before)
    watched.gets(2)


@pytest.mark.parametrize("job", ["open", "ended"])
def test_a_restore_is_the_doing_of_who_asks_for_it(watched, result, connection, job):
    client = connection.client
    file = client.file_by_path(watched.container, result)["id"]
    if job == "ended":
        client.update_job(watched.job, status="COMPLETED")
    client.delete_file(file)
    client.restore_file(file)
    watched.gets(1)
    with contextlib.closing(connection.within(60, job=watched.job)) as own:
        own.client.delete_file(file)
        own.client.restore_file(file)
    stays(lambda: watched.files() == 1)


def test_a_mark_of_somebody_else_is_none(watched, connection, platform, functions):
    """Another user, who may not work in the function's container, but has one in which the function is wanted."""
    with Client(platform.settings.url, platform.settings.key_root) as root:
        made = root.create_user(f"eve {uuid.uuid4()}")
    with Client(platform.settings.url, made["key"]) as eve:
        theirs = eve.create_container("theirs")["id"]
        eve.grant(theirs, "1")
        functions.add_trigger(
            watched.key, "file_created", container_id=theirs, path_regex="^/in/", batch_seconds=0
        )
        s3 = s3_of(made["s3"])
        said = [
            watched.job,
            f"{watched.job}:",
            f"{watched.job}:{'0' * 64}",
            # Made for another place.
            watched.mark("in/2", watched.container)[marks.NAME],
            f"{10**18 - 1}:{'0' * 64}",
            "é".encode().hex() + ":",
        ]
        for number, each in enumerate(said):
            s3.put_object(
                Bucket=made["s3"]["bucket"],
                Key=f"{theirs}/in/{number}",
                Body=b"x",
                Metadata={marks.NAME: each},
            )
        watched.gets(len(said))
        s3.close()
        assert all(each["cause_job_id"] is None for each in functions.calls(function=watched.key))
        assert not list(connection.client.messages(watched.job))
        # Nor is she given the key that makes one.
        with pytest.raises(Exception, match="not yours"):
            eve.job(watched.job)
