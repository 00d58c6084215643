"""What the gate of the S3 front lets pass, without any server."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb.local import deletions, gate
from libsafe_nb.local.chunks import ChunkedBody
from libsafe_nb.local.gate import Refused

SIGNED = (
    "AWS4-HMAC-SHA256 Credential=LSNBAAAA/20261123/us-east-1/s3/aws4_request,"
    f" SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
)
MINE = frozenset({"1", "12"})


def head(method, target, *headers):
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1:1", f"Authorization: {SIGNED}", *headers]
    return gate.read_head("\r\n".join(lines).encode())


def judged(method, target, *headers):
    return gate.judge(head(method, target, *headers), "libsafe", MINE)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("HEAD", "/libsafe"),
        ("GET", "/libsafe?location"),
        ("GET", "/libsafe?versioning"),
        ("GET", "/libsafe?list-type=2&prefix=1%2F&encoding-type=url"),
        ("GET", "/libsafe/?prefix=12/sub&delimiter=/"),
        ("GET", "/libsafe?versions&prefix=1/"),
        ("GET", "/libsafe?uploads&prefix=1/"),
        ("POST", "/libsafe?delete"),
        ("GET", "/libsafe/1/a.txt"),
        ("GET", "/libsafe/1/a.txt?versionId=67155796e8c649f822581e9bf4695955&x-id=GetObject"),
        ("HEAD", "/libsafe/12/%C3%A9%20b.txt"),
        ("PUT", "/libsafe/1/a+b%2Bc&d='.txt"),
        ("PUT", "/libsafe/1/folder/"),
        ("PUT", "/libsafe/1/100%25.txt"),
        ("POST", "/libsafe/1/a?uploads"),
        ("PUT", "/libsafe/1/a?partNumber=1&uploadId=04ae_b"),
        ("DELETE", "/libsafe/1/a?uploadId=04ae_b"),
        ("GET", "/libsafe/1/a?tagging"),
        ("GET", "/libsafe/1/a?response-content-type=text%2Fplain"),
    ],
)
def test_what_users_of_s3_do_passes(method, target):
    judged(method, target)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("POST", "/"),
        ("PUT", "/other"),
        ("GET", "/other/1/a"),
        ("PUT", "/libsafe"),
        ("DELETE", "/libsafe"),
        ("PUT", "/libsafe?versioning"),
        ("PUT", "/libsafe?policy"),
        ("GET", "/libsafe?policy"),
        ("PUT", "/libsafe?lifecycle"),
        ("PUT", "/libsafe/?acl"),
        ("POST", "/libsafe"),
        ("GET", "/libsafe"),
        ("GET", "/libsafe?list-type=2"),
        ("GET", "/libsafe?prefix=1"),
        ("GET", "/libsafe?prefix=2/"),
        ("GET", "/libsafe?prefix="),
        ("GET", "/libsafe?versions"),
        ("GET", "/libsafe?uploads"),
        ("GET", "/libsafe?prefix=1/&Prefix=2/"),
        ("GET", "/libsafe/2/a"),
        ("GET", "/libsafe/1"),
        ("PUT", "/libsafe/111/a"),
        ("GET", "/libsafe//1/a"),
        ("PUT", "/libsafe/1/a?acl"),
        ("PUT", "/libsafe/1/a?retention"),
        ("PUT", "/libsafe/1/a?legal-hold"),
        ("POST", "/libsafe/1/a?select&select-type=2"),
        ("POST", "/libsafe/1/a"),
        ("PUT", "/libsafe/1/a?anything"),
        ("PUT", "/libsafe/.uploads/x"),
        ("GET", "/libsafe%2F1/a"),
    ],
)
def test_what_concerns_the_bucket_or_others_is_denied(method, target):
    with pytest.raises(Refused) as refused:
        judged(method, target)
    assert refused.value.status in (400, 403)


@pytest.mark.parametrize(
    "path",
    [
        "/libsafe/1/a//b",
        "/libsafe/1//",
        "/libsafe/1/./a",
        "/libsafe/1/../2/a",
        "/libsafe/1/a/..",
        "/libsafe/1/%2e%2e/2/a",
        "/libsafe/1/a%2F..%2F..%2F2/a",
        "/libsafe/1/..%5C..%5C2%5Ca",
        "/libsafe/1/a%00b",
        "/libsafe/1/a%0Ab",
        "/libsafe/1/x.versions/v_1",
        "/libsafe/1/a?versionId=../../2/b.versions/v_1",
        "/libsafe/1/a?partNumber=1&uploadId=../x",
        "/libsafe/1/a?versionId=%2e%2e",
        "/libsafe/1/%zz",
        "/libsafe/1/%ff",
        "/libsafe/1/a?x=1;y=2",
        "/libsafe/1/a?versionId=a&versionId=b",
        "/libsafe/1/" + "a" * 300,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(path):
    with pytest.raises(Refused) as refused:
        judged("GET" if "upload" not in path else "PUT", path)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "source",
    [
        "/libsafe/2/a",
        "libsafe/2/a",
        "/other/1/a",
        "libsafe/1/../2/a",
        "libsafe/1/%2e%2e/2/a",
        "libsafe/1/%252e%252e/2/a",
        "libsafe%2F2%2Fa",
        "libsafe/1/a?versionId=../../2/b",
        "libsafe/1/a?x=y",
        "arn:aws:s3:::libsafe/1/a",
    ],
)
def test_a_copy_from_elsewhere_is_refused(source):
    judged("PUT", "/libsafe/1/b", "x-amz-copy-source: /libsafe/12/a%20b?versionId=67ab")
    with pytest.raises(Refused):
        judged("PUT", "/libsafe/1/b", f"x-amz-copy-source: {source}")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /libsafe/1/a HTTP/1.1\nHost: a",
        b"GET /libsafe/1/a HTTP/1.0\r\nHost: a",
        b"GET  /libsafe/1/a HTTP/1.1\r\nHost: a",
        b"GET http://127.0.0.1/libsafe/1/a HTTP/1.1\r\nHost: a",
        b"PATCH /libsafe/1/a HTTP/1.1\r\nHost: a",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\n folded",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost : a",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nX: a\nTransfer-Encoding: chunked",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nContent-Length: +1",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nUpgrade: h2c",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nx-amz-acl: public-read",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nx-amz-grant-read: id=1",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nx-amz-security-token: t",
        b"GET /libsafe/1/a HTTP/1.1\r\nHost: a\r\nx-amz-rename-source: /2/a",
        b"\x16\x03\x01",
    ],
)
def test_a_head_that_servers_may_read_differently_is_refused(raw):
    with pytest.raises(Refused):
        gate.read_head(raw)


@pytest.mark.parametrize(
    ("method", "target", "written"),
    [
        ("PUT", "/libsafe/1/a%20b/c.txt", ("1", "a b/c.txt")),
        ("POST", "/libsafe/12/a?uploadId=04ae_b", ("12", "a")),
        ("DELETE", "/libsafe/1/a", ("1", "a")),
        ("DELETE", "/libsafe/1/a?versionId=04ae", ("1", "a")),
        ("GET", "/libsafe/1/a", None),
        ("HEAD", "/libsafe/1/a", None),
        ("PUT", "/libsafe/1/a?partNumber=1&uploadId=04ae_b", None),
        ("PUT", "/libsafe/1/a?tagging", None),
        ("POST", "/libsafe/1/a?uploads", None),
        ("DELETE", "/libsafe/1/a?uploadId=04ae_b", None),
    ],
)
def test_what_is_about_to_change_is_known(method, target, written):
    assert judged(method, target).writes == written


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(raw):
    with contextlib.suppress(Refused):
        gate.judge(gate.read_head(raw), "libsafe", MINE)


@given(st.text(max_size=60), st.sampled_from(["GET", "PUT", "DELETE"]))
def test_no_target_leads_out_of_the_containers(text, method):
    """Whatever is asked for, a passage means a plain key of ours."""
    try:
        found = gate.judge(head(method, "/libsafe/" + text), "libsafe", frozenset({"7"}))
    except (Refused, UnicodeEncodeError):
        return
    if text.partition("?")[0]:
        path = gate._decoded(text.partition("?")[0])
        assert path.startswith("7/")
        assert not {"", ".", ".."} & set(path.rstrip("/").split("/"))
    assert not found.keys_in_body


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/libsafe/1/a", []),
        ("/libsafe/1/a", ["Authorization: AWS LSNBAAAA:c2lnbmF0dXJl"]),
        ("/libsafe/1/a", ["Authorization: Bearer abc"]),
        ("/libsafe/1/a?AWSAccessKeyId=LSNBAAAA&Signature=x&Expires=1", []),
        ("/libsafe/1/a?X-Amz-Credential=LSNBAAAA/20261123/us-east-1/s3/aws4_request", []),
        ("/libsafe/1/a?X-Amz-Signature=00", [f"Authorization: {SIGNED}"]),
        ("/libsafe/1/a", [f"Authorization: {SIGNED}, Credential=OTHER/20261123/us-east-1/s3/aws4_request"]),
        ("/libsafe/1/a", [f"Authorization: {SIGNED.replace('/s3/', '/sts/')}"]),
    ],
)
def test_only_one_plain_version_4_signature_names_a_key(target, headers):
    lines = [f"GET {target} HTTP/1.1", "Host: 127.0.0.1:1", *headers]
    with pytest.raises(Refused):
        gate.access_key(gate.read_head("\r\n".join(lines).encode()))


def test_the_key_of_a_header_or_of_a_presigned_address_is_found():
    presigned = (
        "/libsafe/1/a?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=LSNBBBBB%2F20261123%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Signature=00"
    )
    lines = f"GET {presigned} HTTP/1.1\r\nHost: a".encode()

    assert gate.access_key(head("GET", "/libsafe/1/a")) == "LSNBAAAA"
    assert gate.access_key(gate.read_head(lines)) == "LSNBBBBB"


def objects(*keys):
    inner = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
    return f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}<Quiet>true</Quiet></Delete>'


def test_a_list_of_own_keys_may_be_deleted():
    deletions.check(
        b'<?xml version="1.0" encoding="UTF-8"?>\n' + objects("1/a&amp;b", "12/\u00e9").encode(), MINE
    )


@pytest.mark.parametrize(
    "body",
    [
        objects("1/a", "2/b").encode(),
        objects("1/../2/b").encode(),
        objects("1/a<b/>/../../2/c").encode(),
        objects("1/a").replace("<Key>1/a</Key>", "<Key>1/a</Key><Key>2/b</Key>").encode(),
        objects("1/a").replace("</Key>", "</Key><VersionId>../../2</VersionId>").encode(),
        objects().encode(),
        b'<!DOCTYPE d [<!ENTITY a "2/b">]>' + objects("&a;").encode(),
        objects("1/a<!-- -->/x").encode(),
        objects("1/a").encode("utf-16"),
        b'<?xml version="1.0" encoding="utf-7"?>' + objects("+ADI-/a").encode(),
        b"not xml",
        b"",
        b"<Other><Object><Key>1/a</Key></Object></Other>",
    ],
)
def test_a_list_with_foreign_or_doubtful_keys_is_refused(body):
    with pytest.raises(Refused):
        deletions.check(body, MINE)


@given(st.data(), st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.binary(max_size=40))
def test_a_chunked_body_ends_where_it_ends_however_it_arrives(data, chunks, following):
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nx-sum: abc\r\n\r\n"
    stream, waiting, taken, reader = body + following, bytearray(), 0, ChunkedBody()
    while not reader.ended:
        count = data.draw(st.integers(1, 20))
        waiting += stream[:count]
        stream = stream[count:]
        piece = reader.take(waiting)
        taken += piece
        del waiting[:piece]

    assert taken == len(body)


@pytest.mark.parametrize(
    "body", [b"5\r\nabc\r\n0\r\n\r\n", b"g\r\n", b"-1\r\n", b"0\r\nbad trailer\r\n\r\n", b"1" * 3000]
)
def test_a_malformed_chunk_is_refused(body):
    with pytest.raises(Refused):
        ChunkedBody().take(bytearray(body))
