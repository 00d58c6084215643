"""What any S3 client does shows in the REST listing within two seconds."""

import json
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb.local.events import Deleted, EventReader, FolderMade, Stored

from .conftest import eventually

BUCKET = "libsafe"


# The stream, as SeaweedFS 4.48 prints it.


def entry(name, *, directory=False, mime="", **extended):
    encoded = {key.replace("_", "-"): b64encode(value.encode()).decode() for key, value in extended.items()}
    return {"name": name, "isDirectory": directory, "attributes": {"mime": mime}, "extended": encoded}


def event(at, folder, old, new):
    directory = f"/buckets/{BUCKET}{folder}"
    what = {"oldEntry": old, "newEntry": new, "newParentPath": directory if new else ""}
    return {"directory": directory, "eventNotification": what, "tsNs": str(at), "events": []}


def latest(name, version, size="3", etag="e", **more):
    return entry(
        f"{name}.versions",
        directory=True,
        Seaweed_X_Amz_Latest_Version_Id=version,
        Seaweed_X_Amz_Latest_Version_Size=size,
        Seaweed_X_Amz_Latest_Version_ETag=etag,
        **more,
    )


STORED = [
    event(1, "/7", None, entry("dir", directory=True)),
    event(2, "/7/dir", None, entry("é.txt.versions", directory=True)),
    event(3, "/7/dir/é.txt.versions", None, entry("v_a1", mime="text/plain", Seaweed_X_Amz_Version_Id="a1")),
    event(4, "/7/dir", entry("é.txt.versions", directory=True), latest("é.txt", "a1")),
    event(5, "/.uploads", None, entry("0a_b", directory=True, mime="image/png", key="7/x")),
    event(6, "/7", None, entry("made", directory=True, mime="httpd/unix-directory")),
    event(
        7,
        "/7/dir",
        latest("é.txt", "a1"),
        latest("é.txt", "a2", Seaweed_X_Amz_Latest_Version_Is_Delete_Marker="true"),
    ),
    event(8, "/7/dir", latest("é.txt", "a2"), entry("é.txt.versions", directory=True)),
    event(9, "/7/dir", entry("é.txt.versions", directory=True), None),
]
CHANGES = [
    Stored(7, "dir/é.txt", "a1", 3, "e", "text/plain", 4),
    FolderMade(7, "made", 6),
    Deleted(7, "dir/é.txt", 7),
    Deleted(7, "dir/é.txt", 8),
]
STREAM = b"".join(json.dumps(each, indent=2, ensure_ascii=False).encode() + b"\n" for each in STORED)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_the_stream_reads_the_same_in_any_pieces(cuts):
    reader, found, before = EventReader(BUCKET), [], 0
    for cut in [*sorted(cuts), len(STREAM)]:
        found += reader.feed(STREAM[before:cut])
        before = cut

    assert found == CHANGES
    assert reader.position == 9


def test_neighbouring_events_out_of_order_are_all_read():
    """As they are under concurrent writes: the times of events are no order to skip by."""
    stream = [event(at, "/7", None, latest(f"f{at}", f"v{at}")) for at in (5, 3, 9, 8)]
    reader = EventReader(BUCKET, 7)

    assert len(reader.feed(b"".join(json.dumps(each, indent=2).encode() + b"\n" for each in stream))) == 4
    assert reader.position == 9


def test_a_version_whose_type_was_told_too_long_ago_has_none():
    stream = json.dumps(event(1, "/7", latest("a", "a2"), latest("a", "a1")), indent=2).encode() + b"\n"

    assert EventReader(BUCKET).feed(stream) == [Stored(7, "a", "a1", 3, "e", None, 1)]


# The whole way.


def row(rest, container, path):
    return {each["path"]: each for each in rest.listed(container)}.get(path)


def test_a_stored_object_appears_with_size_type_and_dates(s3, rest, container):
    s3.put_object(
        Bucket=BUCKET, Key=f"{container}/sub/dir/a.bin", Body=b"hello", ContentType="application/x-own"
    )
    found = eventually(lambda: row(rest, container, "sub/dir/a.bin"), within=10)

    assert (found["size"], found["mime"], found["type"]) == (5, "application/x-own", "FILE")
    assert found["date_create"] == found["date_update"]
    assert found["etag"] == "5d41402abc4b2a76b9719d911017c592"
    folders = {each["path"]: each for each in rest.listed(container, type="FOLDER")}
    assert set(folders) == {"sub", "sub/dir"}
    assert found["parent"] == folders["sub/dir"]["id"]
    assert folders["sub/dir"]["parent"] == folders["sub"]["id"]
    assert folders["sub"]["parent"] is None


def test_the_type_is_the_objects_else_that_of_its_extension(s3, rest, container):
    s3.put_object(
        Bucket=BUCKET, Key=f"{container}/a.pdf", Body=b"%PDF", ContentType="application/octet-stream"
    )
    s3.put_object(Bucket=BUCKET, Key=f"{container}/b.csv", Body=b"1,2")
    s3.put_object(Bucket=BUCKET, Key=f"{container}/c.csv", Body=b"1,2", ContentType="text/x-own")
    s3.put_object(Bucket=BUCKET, Key=f"{container}/d", Body=b"\x00\x01")
    eventually(lambda: len(rest.listed(container)) == 4)

    assert {each["path"]: each["mime"] for each in rest.listed(container)} == {
        "a.pdf": "application/pdf",
        "b.csv": "text/csv",
        "c.csv": "text/x-own",
        "d": "application/octet-stream",
    }


def test_a_new_version_updates_the_row_and_drops_the_hashes(s3, rest, container):
    key = f"{container}/a.txt"
    first = s3.put_object(Bucket=BUCKET, Key=key, Body=b"one")["VersionId"]
    file = rest.file(container, "a.txt")
    assert file["version_id"] == first
    rest.ok("PUT", f"/file/{file['id']}/hash", json={"algorithm": "md5", "value": "f" * 32})
    rest.ok("PUT", f"/file/{file['id']}/metadata", json={"metadata": [{"iecode": "t", "value": "kept"}]})

    second = s3.put_object(Bucket=BUCKET, Key=key, Body=b"three")["VersionId"]
    eventually(lambda: rest.ok("GET", f"/file/{file['id']}")["version_id"] == second)
    found = rest.ok("GET", f"/file/{file['id']}")

    assert (found["size"], found["hashes"], found["date_create"]) == (5, {}, file["date_create"])
    assert found["date_update"] > file["date_update"]
    assert rest.ok("GET", f"/file/{file['id']}/metadata") == [{"iecode": "t", "value": ["kept"]}]


def test_equal_bytes_stored_again_keep_their_hashes(s3, rest, container):
    key = f"{container}/a.txt"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"one")
    file = rest.file(container, "a.txt")
    rest.ok("PUT", f"/file/{file['id']}/hash", json={"algorithm": "md5", "value": "f" * 32})
    version = s3.put_object(Bucket=BUCKET, Key=key, Body=b"one")["VersionId"]
    eventually(lambda: rest.ok("GET", f"/file/{file['id']}")["version_id"] == version)

    assert rest.ok("GET", f"/file/{file['id']}")["hashes"] == {"md5": "f" * 32}


def test_a_deletion_is_soft_and_undone_by_removing_its_marker(s3, rest, container):
    key = f"{container}/a.txt"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"one")
    file = rest.file(container, "a.txt")["id"]
    marker = s3.delete_object(Bucket=BUCKET, Key=key)["VersionId"]
    eventually(lambda: rest.ok("GET", f"/file/{file}")["deleted"] == 1)
    assert rest.listed(container) == []
    assert [each["path"] for each in rest.listed(container, deleted=1)] == ["a.txt"]

    s3.delete_object(Bucket=BUCKET, Key=key, VersionId=marker)
    eventually(lambda: rest.ok("GET", f"/file/{file}")["deleted"] == 0)
    assert [each["size"] for each in rest.listed(container)] == [3]


def test_removing_the_latest_version_shows_the_one_before(s3, rest, container):
    key = f"{container}/a.csv"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"one", ContentType="text/x-first")
    second = s3.put_object(Bucket=BUCKET, Key=key, Body=b"other")["VersionId"]
    eventually(lambda: (row(rest, container, "a.csv") or {}).get("version_id") == second)
    s3.delete_object(Bucket=BUCKET, Key=key, VersionId=second)

    eventually(lambda: row(rest, container, "a.csv")["size"] == 3)
    eventually(lambda: row(rest, container, "a.csv")["mime"] == "text/x-first")


def test_a_purged_object_cannot_be_restored(s3, rest, container):
    key = f"{container}/a.txt"
    version = s3.put_object(Bucket=BUCKET, Key=key, Body=b"one")["VersionId"]
    file = rest.file(container, "a.txt")["id"]
    s3.delete_object(Bucket=BUCKET, Key=key, VersionId=version)
    eventually(lambda: rest.ok("GET", f"/file/{file}")["deleted"] == 1)

    assert "every version" in rest.refused(409, "POST", f"/file/{file}/restore")


def test_multipart_uploads_copies_and_folder_markers_appear(s3, rest, container):
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=f"{container}/big.png", ContentType="image/png")[
        "UploadId"
    ]
    parts = []
    for number in (1, 2):
        tag = s3.upload_part(
            Bucket=BUCKET,
            Key=f"{container}/big.png",
            UploadId=upload,
            PartNumber=number,
            Body=bytes(5 * 1024 * 1024),
        )
        parts.append({"PartNumber": number, "ETag": tag["ETag"]})
    s3.complete_multipart_upload(
        Bucket=BUCKET, Key=f"{container}/big.png", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    s3.copy_object(
        Bucket=BUCKET, Key=f"{container}/copy", CopySource={"Bucket": BUCKET, "Key": f"{container}/big.png"}
    )
    s3.put_object(Bucket=BUCKET, Key=f"{container}/folder/", Body=b"")
    s3.put_object(Bucket=BUCKET, Key=f"{container}/both", Body=b"file")
    s3.put_object(Bucket=BUCKET, Key=f"{container}/both/inner", Body=b"x")
    eventually(lambda: len(rest.listed(container)) == 6)

    assert [(each["path"], each["type"], each["size"], each["mime"]) for each in rest.listed(container)] == [
        ("big.png", "FILE", 10 * 1024 * 1024, "image/png"),
        ("both", "FILE", 4, "text/plain; charset=utf-8"),
        ("both", "FOLDER", 0, None),
        ("both/inner", "FILE", 1, "text/plain; charset=utf-8"),
        ("copy", "FILE", 10 * 1024 * 1024, "image/png"),
        ("folder", "FOLDER", 0, None),
    ]
    s3.delete_object(Bucket=BUCKET, Key=f"{container}/folder/")
    eventually(lambda: not row(rest, container, "folder"))


def test_a_look_up_needs_no_waiting(s3, rest, container):
    """Right after the answer to the PUT, over and over."""
    for number in range(30):
        version = s3.put_object(Bucket=BUCKET, Key=f"{container}/a", Body=b"x" * number)["VersionId"]
        found = rest.file(container, "a")
        assert (found["size"], found["version_id"]) == (number, version)
    s3.delete_object(Bucket=BUCKET, Key=f"{container}/a")
    rest.refused(404, "GET", f"/container/{container}/file/path/a")


def test_five_hundred_objects_by_eight_clients_all_appear(s3, rest, container):
    def put(number):
        s3.put_object(Bucket=BUCKET, Key=f"{container}/{number % 7}/{number}", Body=b"x" * (number % 100))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(500)))

    def sizes():
        return {each["path"]: each["size"] for each in rest.listed(container, type="FILE", limit=10000)}

    eventually(lambda: len(sizes()) == 500)
    assert sizes() == {f"{number % 7}/{number}": number % 100 for number in range(500)}
