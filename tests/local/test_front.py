"""The published S3 endpoint, spoken to by boto3, the AWS CLI and bare sockets."""

import hashlib
import io
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import botocore.exceptions
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .conftest import as_dict, eventually, s3_client

BUCKET = "libsafe"
MIB = 1024 * 1024


def code(call, **arguments):
    """The error code that a call is answered with, or None."""
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as exc:
        return exc.response["Error"]["Code"]
    return None


def address(s3):
    host, _, port = s3.meta.endpoint_url.removeprefix("http://").partition(":")
    return host, int(port)


def signed(s3_settings, method, path, body=b"", *, chunked=False):
    """A request's head, signed for the front as any client would."""
    url = s3_settings["endpoint"] + path
    length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
    request = AWSRequest(method, url, data=body, headers=length)
    request.headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
    credentials = Credentials(s3_settings["access_key"], s3_settings["secret_key"])
    SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {url.split('/')[2]}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def exchange(s3, raw):
    """Send bytes, say that no more will come, and read all that comes back."""
    with socket.create_connection(address(s3), timeout=30) as connection:
        connection.sendall(raw)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


# What a user may do with their own.


def test_objects_versions_and_metadata_travel_through(s3, container):
    key = f"{container}/dir/é + b.txt"
    first = s3.put_object(Bucket=BUCKET, Key=key, Body=b"one", ContentType="text/x", Metadata={"m": "v"})
    second = s3.put_object(Bucket=BUCKET, Key=key, Body=b"two")
    s3.delete_object(Bucket=BUCKET, Key=key)

    assert code(s3.get_object, Bucket=BUCKET, Key=key) == "NoSuchKey"
    old = s3.get_object(Bucket=BUCKET, Key=key, VersionId=first["VersionId"])
    assert (old["Body"].read(), old["ContentType"], old["Metadata"]) == (b"one", "text/x", {"m": "v"})
    listed = s3.list_object_versions(Bucket=BUCKET, Prefix=f"{container}/")
    assert {each["VersionId"] for each in listed["Versions"]} == {first["VersionId"], second["VersionId"]}
    assert len(listed["DeleteMarkers"]) == 1


def test_ranges_suffixes_and_conditions_travel_through(s3, container):
    key = f"{container}/range"
    stored = s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(range(100)))

    assert s3.get_object(Bucket=BUCKET, Key=key, Range="bytes=10-19")["Body"].read() == bytes(range(10, 20))
    assert s3.get_object(Bucket=BUCKET, Key=key, Range="bytes=-5")["Body"].read() == bytes(range(95, 100))
    assert s3.get_object(Bucket=BUCKET, Key=key, Range="bytes=98-")["Body"].read() == bytes([98, 99])
    assert code(s3.get_object, Bucket=BUCKET, Key=key, Range="bytes=200-") == "InvalidRange"
    assert code(s3.get_object, Bucket=BUCKET, Key=key, IfMatch='"other"') == "PreconditionFailed"
    assert s3.get_object(Bucket=BUCKET, Key=key, IfMatch=stored["ETag"])["ContentLength"] == 100


def test_one_of_sixteen_conditional_writers_wins(s3, container):
    def put(number):
        body = b"%d" % number
        return code(s3.put_object, Bucket=BUCKET, Key=f"{container}/race", Body=body, IfNoneMatch="*")

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(put, range(16)))

    assert outcomes.count(None) == 1
    assert set(outcomes) - {None} <= {"PreconditionFailed", "ConditionalRequestConflict"}


def test_a_large_file_goes_up_in_parts_and_comes_back(s3, rest, container):
    key, block = f"{container}/large.bin", os.urandom(MIB)
    s3.upload_fileobj(io.BytesIO(block * 100), BUCKET, key)
    found = hashlib.sha256()
    for piece in s3.get_object(Bucket=BUCKET, Key=key)["Body"].iter_chunks(MIB):
        found.update(piece)

    assert found.digest() == hashlib.sha256(block * 100).digest()
    assert rest.file(container, "large.bin")["size"] == 100 * MIB
    assert not s3.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{container}/").get("Uploads")


def test_an_aborted_multipart_upload_is_gone(s3, container):
    key = f"{container}/aborted"
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * MIB)
    assert len(s3.list_parts(Bucket=BUCKET, Key=key, UploadId=upload)["Parts"]) == 1
    s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)

    assert code(s3.list_parts, Bucket=BUCKET, Key=key, UploadId=upload) == "NoSuchUpload"


def test_copies_and_lists_of_deletions_within_the_containers_work(s3, rest, container):
    s3.put_object(Bucket=BUCKET, Key=f"{container}/a", Body=b"a")
    s3.copy_object(
        Bucket=BUCKET, Key=f"{container}/b c", CopySource={"Bucket": BUCKET, "Key": f"{container}/a"}
    )
    assert s3.get_object(Bucket=BUCKET, Key=f"{container}/b c")["Body"].read() == b"a"

    objects = [{"Key": f"{container}/a"}, {"Key": f"{container}/b c"}]
    assert len(s3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects})["Deleted"]) == 2
    eventually(lambda: not rest.listed(container))


def test_presigned_addresses_work_for_own_keys_only(served, other, container):
    """In version 4 of the signature; boto3 still makes version 2 when it is not told."""
    s3 = s3_client(as_dict(served.settings.s3), signature_version="s3v4")
    theirs = s3_client(other.s3_settings, signature_version="s3v4")
    s3.put_object(Bucket=BUCKET, Key=f"{container}/a", Body=b"hello")

    def fetch(client, key):
        url = client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key})
        with urllib.request.urlopen(url) as answer:
            return answer.read()

    assert fetch(s3, f"{container}/a") == b"hello"
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(theirs, f"{container}/a")
    assert refused.value.code == 403
    refused.value.close()
    theirs.close()
    url = s3.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": f"{container}/put"})
    with urllib.request.urlopen(urllib.request.Request(url, data=b"put", method="PUT")) as answer:
        assert answer.status == 200
    assert s3.get_object(Bucket=BUCKET, Key=f"{container}/put")["Body"].read() == b"put"
    s3.close()


def test_a_body_in_chunks_is_followed_by_the_next_request(s3, served, container):
    """Transfer-Encoding: chunked, and a second request on the same connection, which is judged as well."""
    settings = as_dict(served.settings.s3)
    path = f"/{BUCKET}/{container}/chunked"
    request = signed(settings, "PUT", path, b"hello world", chunked=True)
    with socket.create_connection(address(s3), timeout=30) as connection:
        connection.sendall(request + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        assert b" 200 " in connection.recv(65536)
        connection.sendall(signed(settings, "GET", f"/{BUCKET}/999/secret"))
        answer = b""
        while data := connection.recv(65536):
            answer += data

    assert answer.startswith(b"HTTP/1.1 403")
    assert s3.get_object(Bucket=BUCKET, Key=f"{container}/chunked")["Body"].read() == b"hello world"


# What nobody may.


def test_buckets_cannot_be_listed(s3):
    assert code(s3.list_buckets) == "AccessDenied"


def test_the_bucket_cannot_be_changed_or_looked_into(s3, root_rest):
    assert code(s3.head_bucket, Bucket=BUCKET) is None
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    refused = {
        "create": code(s3.create_bucket, Bucket="mine"),
        "delete": code(s3.delete_bucket, Bucket=BUCKET),
        "suspend": code(
            s3.put_bucket_versioning, Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"}
        ),
        "policy": code(s3.put_bucket_policy, Bucket=BUCKET, Policy="{}"),
        "read policy": code(s3.get_bucket_policy, Bucket=BUCKET),
        "acl": code(s3.put_bucket_acl, Bucket=BUCKET, ACL="public-read"),
        "list": code(s3.list_objects_v2, Bucket=BUCKET),
        "versions": code(s3.list_object_versions, Bucket=BUCKET),
        "uploads": code(s3.list_multipart_uploads, Bucket=BUCKET),
        "foreign bucket": code(s3.list_objects_v2, Bucket="other", Prefix="1/"),
    }

    assert set(refused.values()) == {"AccessDenied"}, refused
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"


def test_users_see_their_own_containers_only(s3, other, container):
    s3.put_object(Bucket=BUCKET, Key=f"{container}/secret", Body=b"secret")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=f"{container}/up")["UploadId"]
    theirs, mine = other.container, container
    other.s3.put_object(Bucket=BUCKET, Key=f"{theirs}/own", Body=b"own")
    key = f"{mine}/secret"
    source = {"Bucket": BUCKET, "Key": key}
    refused = {
        "get": code(other.s3.get_object, Bucket=BUCKET, Key=key),
        "head": code(other.s3.head_object, Bucket=BUCKET, Key=key),
        "put": code(other.s3.put_object, Bucket=BUCKET, Key=key, Body=b"x"),
        "delete": code(other.s3.delete_object, Bucket=BUCKET, Key=key),
        "list": code(other.s3.list_objects_v2, Bucket=BUCKET, Prefix=f"{mine}/"),
        "list v1": code(other.s3.list_objects, Bucket=BUCKET, Prefix=f"{mine}/"),
        "versions": code(other.s3.list_object_versions, Bucket=BUCKET, Prefix=f"{mine}/"),
        "uploads": code(other.s3.list_multipart_uploads, Bucket=BUCKET, Prefix=f"{mine}/"),
        "tags": code(other.s3.get_object_tagging, Bucket=BUCKET, Key=key),
        "copy": code(other.s3.copy_object, Bucket=BUCKET, Key=f"{theirs}/stolen", CopySource=source),
        "parts": code(other.s3.list_parts, Bucket=BUCKET, Key=f"{mine}/up", UploadId=upload),
        "deletions": code(
            other.s3.delete_objects,
            Bucket=BUCKET,
            Delete={"Objects": [{"Key": f"{theirs}/own"}, {"Key": key}]},
        ),
    }
    s3.abort_multipart_upload(Bucket=BUCKET, Key=f"{mine}/up", UploadId=upload)

    assert refused.pop("head") == "403"
    assert set(refused.values()) == {"AccessDenied"}, refused
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"secret"
    assert [
        each["Key"] for each in other.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{theirs}/")["Contents"]
    ] == [f"{theirs}/own"]


def test_no_version_id_climbs_into_another_container(s3, other, container):
    stored = s3.put_object(Bucket=BUCKET, Key=f"{container}/secret", Body=b"secret")
    other.s3.put_object(Bucket=BUCKET, Key=f"{other.container}/own", Body=b"own")
    climbing = f"/../../../{container}/secret.versions/v_{stored['VersionId']}"

    assert (
        code(other.s3.get_object, Bucket=BUCKET, Key=f"{other.container}/own", VersionId=climbing)
        == "InvalidArgument"
    )


def test_listings_show_nothing_of_neighbours(s3, other):
    """Container 1 and container 1x share the beginning of their keys."""
    mine = other.container
    other.s3.put_object(Bucket=BUCKET, Key=f"{mine}/a", Body=b"")
    upload = other.s3.create_multipart_upload(Bucket=BUCKET, Key=f"{mine}/up")["UploadId"]
    s3.put_object(Bucket=BUCKET, Key="1/own", Body=b"")
    listed = [
        *s3.list_object_versions(Bucket=BUCKET, Prefix="1/")["Versions"],
        *s3.list_objects_v2(Bucket=BUCKET, Prefix="1/")["Contents"],
        *s3.list_multipart_uploads(Bucket=BUCKET, Prefix="1/").get("Uploads", []),
    ]
    other.s3.abort_multipart_upload(Bucket=BUCKET, Key=f"{mine}/up", UploadId=upload)

    assert {each["Key"].split("/")[0] for each in listed} == {"1"}


def test_a_grant_and_a_revocation_act_at_once(s3, other, rest, root_rest, container):
    key = f"{container}/shared"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"shared")
    assert code(other.s3.get_object, Bucket=BUCKET, Key=key) == "AccessDenied"

    rest.ok("POST", f"/container/{container}/grant", json={"user_id": other.id})
    assert other.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"shared"

    root_rest.ok("DELETE", f"/user/{other.id}/s3")
    assert code(other.s3.get_object, Bucket=BUCKET, Key=key) == "InvalidAccessKeyId"


def test_regenerated_credentials_work_at_once_and_the_old_ones_do_not(other):
    fresh = s3_client(other.rest.ok("POST", f"/user/{other.id}/s3"))

    assert code(fresh.put_object, Bucket=BUCKET, Key=f"{other.container}/a", Body=b"") is None
    assert (
        code(other.s3.put_object, Bucket=BUCKET, Key=f"{other.container}/a", Body=b"") == "InvalidAccessKeyId"
    )
    fresh.close()


def test_a_wrong_secret_and_an_unknown_key_are_refused(s3, served, container):
    settings = as_dict(served.settings.s3)
    wrong = s3_client({**settings, "secret_key": "wrong-secret"})
    unknown = s3_client({**settings, "access_key": "LSNBUNKNOWN000000000"})

    assert code(wrong.put_object, Bucket=BUCKET, Key=f"{container}/a", Body=b"x") == "SignatureDoesNotMatch"
    assert code(unknown.put_object, Bucket=BUCKET, Key=f"{container}/a", Body=b"x") == "InvalidAccessKeyId"
    assert exchange(s3, f"GET /{BUCKET}/{container}/a HTTP/1.1\r\nHost: a\r\n\r\n".encode()).startswith(
        b"HTTP/1.1 403"
    )
    wrong.close()
    unknown.close()


@pytest.mark.parametrize("name", ["a//b", "./a", "../1/a", "a/../../2/b", "back\\slash", "x.versions/y"])
def test_keys_that_would_be_stored_as_others_are_refused(s3, container, name):
    assert code(s3.put_object, Bucket=BUCKET, Key=f"{container}/{name}", Body=b"") == "InvalidArgument"


def test_an_off_line_file_cannot_be_read(s3, rest, container):
    key = f"{container}/cold"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"cold")
    file = rest.file(container, "cold")["id"]
    assert rest.ok("PUT", f"/file/{file}/storage-class", json={"storage_class_id": "2"})["online"] is False

    copy = {"Bucket": BUCKET, "Key": key}
    assert code(s3.get_object, Bucket=BUCKET, Key=key) == "InvalidObjectState"
    assert (
        code(s3.copy_object, Bucket=BUCKET, Key=f"{container}/warm", CopySource=copy) == "InvalidObjectState"
    )
    rest.ok("PUT", f"/file/{file}/storage-class", json={"storage_class_id": "1"})
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"cold"


# Rough treatment.


def test_an_upload_cut_short_leaves_nothing(s3, served, rest, container):
    s3.put_object(Bucket=BUCKET, Key=f"{container}/kept", Body=b"old")
    for name in ("kept", "new"):
        body = b"x" * 8 * MIB
        request = signed(as_dict(served.settings.s3), "PUT", f"/{BUCKET}/{container}/{name}", body)
        with socket.create_connection(address(s3), timeout=30) as connection:
            connection.sendall(request + body[: 5 * MIB])

    assert s3.get_object(Bucket=BUCKET, Key=f"{container}/kept")["Body"].read() == b"old"
    assert code(s3.get_object, Bucket=BUCKET, Key=f"{container}/new") == "NoSuchKey"
    assert [each["path"] for each in rest.listed(container)] == ["kept"]


def test_a_refused_upload_gets_its_answer_although_it_goes_on_sending(s3, other, container):
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        other.s3.put_object(Bucket=BUCKET, Key=f"{container}/big", Body=b"x" * 8 * MIB)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x" * 70_000,
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_nonsense_is_refused_and_the_connection_closed(s3, raw):
    assert re.match(rb"HTTP/1.1 4\d\d ", exchange(s3, raw))


def test_many_clients_at_once_keep_their_bytes_apart(s3, container):
    def travel(number):
        body = bytes([number]) * (300_000 + number)
        s3.put_object(Bucket=BUCKET, Key=f"{container}/many/{number}", Body=body)
        return s3.get_object(Bucket=BUCKET, Key=f"{container}/many/{number}")["Body"].read() == body

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(travel, range(64)))


def test_a_slow_reader_holds_the_sender_back(s3, served, container):
    """The front buffers about a megabyte each way, however much the S3 server would send."""
    from libsafe_nb.local.root import Root

    s3.put_object(Bucket=BUCKET, Key=f"{container}/slow", Body=b"x" * 64 * MIB)
    process = Root(served.root).s3_side_running()

    def resident():
        with open(f"/proc/{process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    request = signed(as_dict(served.settings.s3), "GET", f"/{BUCKET}/{container}/slow")
    with socket.create_connection(address(s3), timeout=30) as connection:
        connection.sendall(request)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        for _ in range(20):
            # Other traffic, so that the front has had every occasion to read on.
            s3.head_object(Bucket=BUCKET, Key=f"{container}/slow")
        assert resident() - before < 16 * MIB


@pytest.fixture
def aws(served, tmp_path):
    program = os.environ.get("LSNB_AWS") or shutil.which("aws")
    if not program or subprocess.run([program, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("the AWS CLI is not installed (PATH, or LSNB_AWS)")
    settings = served.settings.s3
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": settings.access_key,
        "AWS_SECRET_ACCESS_KEY": settings.secret_key,
        "AWS_DEFAULT_REGION": settings.region,
    }

    def run(*arguments, allowed=True):
        done = subprocess.run(
            [program, "--endpoint-url", settings.endpoint, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (done.returncode == 0) is allowed, done.stderr
        return done.stdout if allowed else done.stderr

    return run


@pytest.mark.awscli
def test_the_aws_cli_works_on_containers_and_is_refused_the_list_of_buckets(aws, rest, container, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a.csv").write_text("1,2")
    (source / "sub" / "b c.bin").write_bytes(os.urandom(20 * MIB))

    assert "AccessDenied" in aws("s3", "ls", allowed=False)
    aws("s3", "cp", str(source / "a.csv"), f"s3://{BUCKET}/{container}/a.csv")
    aws("s3", "sync", str(source), f"s3://{BUCKET}/{container}/synced")
    assert "a.csv" in aws("s3", "ls", f"s3://{BUCKET}/{container}/")
    aws("s3", "sync", f"s3://{BUCKET}/{container}/synced", str(tmp_path / "back"))
    assert (tmp_path / "back" / "sub" / "b c.bin").read_bytes() == (source / "sub" / "b c.bin").read_bytes()
    aws("s3", "mv", f"s3://{BUCKET}/{container}/a.csv", f"s3://{BUCKET}/{container}/moved.csv")
    eventually(
        lambda: (
            {each["path"]: each["mime"] for each in rest.listed(container, type="FILE")}
            == {
                "moved.csv": "text/csv",
                "synced/a.csv": "text/csv",
                "synced/sub/b c.bin": "application/octet-stream",
            }
        )
    )
    aws("s3", "rm", "--recursive", f"s3://{BUCKET}/{container}/")
    eventually(lambda: not rest.listed(container, type="FILE"))
    assert "AccessDenied" in aws("s3", "ls", f"s3://{BUCKET}/", allowed=False)
    assert "AccessDenied" in aws("s3", "rb", f"s3://{BUCKET}", allowed=False)
