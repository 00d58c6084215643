"""
The gate of the S3 front: reads one request's head and says whether it may go on to the S3 server.

Pure: bytes and a user's containers in, a verdict out. The S3 server itself verifies the signature; the gate keeps
each access key within the containers of its user, refuses what concerns the whole bucket, and lets pass only heads
that leave no room for two readings (a request that the gate and the server read differently is how a gate
is walked around). What is not known to be harmless is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_to_bytes
from xml.sax.saxutils import escape

from libsafe_nb.local.paths import key_problem

MAX_HEAD = 64 * 1024

_REQUEST_LINE = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (/[\x21-\x7e]*) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_CREDENTIAL = r"(?P<key>[A-Za-z0-9]{3,128})/\d{8}/[a-z0-9-]{1,40}/s3/aws4_request"
_AUTHORIZATION = re.compile(
    rf"AWS4-HMAC-SHA256 Credential={_CREDENTIAL}, ?SignedHeaders=[a-z0-9;-]+, ?Signature=[0-9a-f]{{64}}"
)
_SCOPE = re.compile(_CREDENTIAL)
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

# What a query may say, by method and by what the path names. Everything else (acl, policy, lifecycle,
# versioning changes, retention, website …) is an owner's matter or unknown to us.
_SIGNING = {
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Content-Sha256",
    "x-id",
}
_CHECKSUMS = {"x-amz-checksum-mode", "x-amz-checksum-algorithm", "x-amz-sdk-checksum-algorithm"}
_RESPONSE = {
    "response-content-type",
    "response-content-language",
    "response-expires",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
}
_LIST = {
    "prefix",
    "delimiter",
    "marker",
    "max-keys",
    "encoding-type",
    "list-type",
    "continuation-token",
    "start-after",
    "fetch-owner",
    "versions",
    "key-marker",
    "version-id-marker",
    "uploads",
    "upload-id-marker",
    "max-uploads",
}
_OBJECT = {
    "GET": {
        "versionId",
        "partNumber",
        "tagging",
        "attributes",
        "uploadId",
        "max-parts",
        "part-number-marker",
    },
    "HEAD": {"versionId", "partNumber"},
    "PUT": {"partNumber", "uploadId", "tagging", "versionId"},
    "POST": {"uploads", "uploadId"},
    "DELETE": {"versionId", "uploadId", "tagging"},
}
_NEVER_HEADERS = {
    "x-amz-security-token": "temporary credentials are not known here",
    "x-amz-rename-source": "renaming is not offered",
    "x-amz-bypass-governance-retention": "retention is not offered",
    "x-amz-website-redirect-location": "websites are not offered",
    "x-http-method-override": "a method cannot be overridden",
    "x-forwarded-host": "this is not a proxy's place",
    "x-forwarded-prefix": "this is not a proxy's place",
    "upgrade": "no other protocol is spoken",
    "x-amz-acl": "",
}
PLAIN_VALUES = {
    # The S3 server makes paths of these, so nothing that could climb out of a folder may stand in them.
    "versionId": re.compile(r"[0-9A-Za-z_-]{1,128}"),
    "uploadId": re.compile(r"[0-9A-Za-z_-]{1,256}"),
    "partNumber": re.compile(r"[0-9]{1,6}"),
}
_PRIVATE_ACLS = {"private", "bucket-owner-full-control", "bucket-owner-read"}


class Refused(Exception):
    """The request goes no further: an S3 error code, its HTTP status and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def answer(self, resource: str, *, body: bool = True) -> bytes:
        """The whole HTTP answer, after which the connection is closed."""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{self.code}</Code><Message>{escape(self.message)}</Message>"
            f"<Resource>{escape(resource)}</Resource><RequestId>libsafe-nb</RequestId></Error>"
        ).encode("utf-8", "replace")
        head = (
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Error')}\r\n"
            "Content-Type: application/xml\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        ).encode()
        return head + (text if body else b"")


_REASONS = {
    400: "Bad Request",
    403: "Forbidden",
    411: "Length Required",
    413: "Request Entity Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
}


def denied(message: str) -> Refused:
    return Refused(403, "AccessDenied", message)


@dataclass(frozen=True)
class Head:
    """One request's head, read strictly. `length` is the body's bytes, None when it comes in chunks."""

    method: str
    target: str
    query: dict[str, str]
    headers: dict[str, str]
    length: int | None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def read_head(raw: bytes) -> Head:
    """
    Parse the bytes before the empty line (both CRLFs excluded).

    Raises
    ------
    Refused
        Anything that two servers might read differently: bare line feeds, folded lines, a repeated header that must
        be single, a length and chunks together, another transfer encoding, a proxy's absolute target.
    """
    line, *rest = raw.split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if not found:
        raise Refused(400, "InvalidRequest", "the request line is not one of S3 over HTTP/1.1")
    headers: dict[str, str] = {}
    for each in rest:
        header = _HEADER.fullmatch(each)
        if not header:
            raise Refused(400, "InvalidRequest", "a header line is malformed")
        name = header[1].decode("ascii").lower()
        if name in headers:
            raise Refused(400, "InvalidRequest", f"the header {name} is given twice")
        headers[name] = header[2].decode("latin-1").strip()
    for name, reason in _NEVER_HEADERS.items():
        if name in headers and not (name == "x-amz-acl" and headers[name] in _PRIVATE_ACLS):
            raise denied(f"the header {name} is refused: {reason or 'objects are private'}")
    for name in headers:
        if name.startswith(("x-amz-grant-", "x-seaweedfs-", "seaweed-", "x-amz-object-lock-")):
            raise denied(f"the header {name} is refused")
    target = found[2].decode("ascii")
    return Head(found[1].decode("ascii"), target, _query(target), headers, _length(headers))


def _length(headers: dict[str, str]) -> int | None:
    if "transfer-encoding" in headers:
        if "content-length" in headers or headers["transfer-encoding"].lower() != "chunked":
            raise Refused(
                400, "InvalidRequest", "the body's length is told in two ways, or in an unknown one"
            )
        return None
    text = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise Refused(400, "InvalidRequest", "Content-Length is not a number")
    return int(text)


def _query(target: str) -> dict[str, str]:
    query: dict[str, str] = {}
    text = target.partition("?")[2]
    if "#" in target or ";" in text:
        raise Refused(400, "InvalidURI", "the query holds a character that must be escaped")
    for pair in filter(None, text.split("&")):
        name, _, value = pair.partition("=")
        name = _decoded(name.replace("+", " "))
        if name in query:
            raise Refused(400, "InvalidArgument", f"the query says {name} twice")
        query[name] = _decoded(value.replace("+", " "))
    return query


def _decoded(text: str) -> str:
    if _PERCENT.search(text):
        raise Refused(400, "InvalidURI", "a percent sign is not followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Refused(400, "InvalidURI", "the address is not UTF-8") from exc


def access_key(head: Head) -> str:
    """
    The access key that signed the request, by header or by a presigned URL.

    Raises
    ------
    Refused
        Anonymous, signed in the old way (SigV2), or signed in two ways at once.
    """
    header = head.headers.get("authorization")
    credential = head.query.get("X-Amz-Credential")
    signed_by_query = credential is not None or "X-Amz-Signature" in head.query or "Signature" in head.query
    if header is not None and signed_by_query:
        raise Refused(400, "InvalidRequest", "signed both in the header and in the address")
    if header is not None:
        found = _AUTHORIZATION.fullmatch(header)
    else:
        presigned = head.query.get("X-Amz-Algorithm") == "AWS4-HMAC-SHA256" and credential is not None
        found = _SCOPE.fullmatch(credential or "") if presigned else None
    if not found:
        raise denied("only requests signed with AWS Signature Version 4 are answered")
    return found["key"]


@dataclass(frozen=True)
class Passage:
    """
    What the gate found. `keys_in_body` asks for the body, for `deletions.check` to see.

    `reads` are the (container, path) whose bytes would be read: an off-line file's may not. `writes` is the one that
    would be stored, deleted or restored; parts of an upload and tags change no object.
    """

    keys_in_body: bool = False
    reads: tuple[tuple[str, str], ...] = field(default_factory=tuple)
    writes: tuple[str, str] | None = None


def judge(head: Head, bucket: str, containers: frozenset[str]) -> Passage:
    """
    Let a signed request pass, for a user of these containers, or raise `Refused`.

    Only keys `{container}/…` of the user's own containers, and of the bucket its location, its versioning state,
    and listings with a prefix inside one of the containers.
    """
    raw_bucket, slash, raw_key = head.path[1:].partition("/")
    if not raw_bucket:
        raise denied("buckets cannot be listed with these credentials; the bucket's name is in the settings")
    if raw_bucket != bucket:
        raise denied(f"only the bucket {bucket} is served")
    key = _decoded(raw_key)
    if not slash or not key:
        return _judge_bucket(head, containers)
    return _judge_object(head, key, bucket, containers)


def _judge_bucket(head: Head, containers: frozenset[str]) -> Passage:
    asked = head.query.keys() - _SIGNING
    if head.method == "HEAD" and not asked:
        return Passage()
    if head.method == "GET" and asked in ({"location"}, {"versioning"}):
        return Passage()
    if head.method == "POST" and asked == {"delete"}:
        return Passage(keys_in_body=True)
    if head.method == "GET" and asked <= _LIST:
        _check_prefix(head.query.get("prefix", ""), containers)
        return Passage()
    raise denied(
        "the bucket belongs to the platform: only its location, versioning state and listings are served"
    )


def _check_prefix(prefix: str, containers: frozenset[str]) -> None:
    container, slash, _ = prefix.partition("/")
    if not slash or container not in containers:
        mine = ", ".join(f"{each}/" for each in sorted(containers)[:5]) or "none"
        raise denied(f"listing needs a prefix that begins with one of your containers ({mine})")
    if "\\" in prefix or any(part in (".", "..") for part in prefix.split("/")) or "//" in prefix:
        raise Refused(400, "InvalidArgument", "the prefix is not in its plain form")


def _judge_object(head: Head, key: str, bucket: str, containers: frozenset[str]) -> Passage:
    asked = head.query.keys() - _SIGNING - _CHECKSUMS
    allowed = _OBJECT[head.method] | (_RESPONSE if head.method in ("GET", "HEAD") else set())
    if asked - allowed:
        raise denied(f"not offered here: {head.method} with {', '.join(sorted(asked - allowed))[:200]}")
    if head.method == "POST" and not asked & {"uploads", "uploadId"}:
        raise denied("form uploads are not offered here")
    for name, plain in PLAIN_VALUES.items():
        if name in asked and not plain.fullmatch(head.query[name]):
            raise Refused(400, "InvalidArgument", f"{name} is malformed")
    check_key(key, containers)
    reads = []
    if head.method == "GET" and not asked & {"tagging", "attributes", "uploadId"}:
        reads.append(_split(key))
    source = head.headers.get("x-amz-copy-source")
    if source is not None:
        reads.append(_split(_source_key(source, bucket, containers)))
    return Passage(reads=tuple(reads), writes=_split(key) if _changes(head.method, asked) else None)


def _changes(method: str, asked: set[str]) -> bool:
    """Whether an object would be another afterwards, or none."""
    if method == "POST":
        return "uploadId" in asked
    return method in ("PUT", "DELETE") and not asked & {"partNumber", "tagging", "uploadId"}


def _source_key(source: str, bucket: str, containers: frozenset[str]) -> str:
    path, _, version = source.partition("?")
    if version and not re.fullmatch(r"versionId=[0-9A-Za-z_-]{1,128}", version):
        raise Refused(400, "InvalidArgument", "x-amz-copy-source: only a versionId may follow the key")
    found_bucket, _, key = _decoded(path.removeprefix("/")).partition("/")
    if found_bucket != bucket:
        raise denied(f"x-amz-copy-source: only the bucket {bucket} is served")
    check_key(key, containers)
    # Servers differ in how often they decode this header, so it must be harmless decoded once more as well.
    check_key(unquote(key), containers)
    return key


def _split(key: str) -> tuple[str, str]:
    container, _, path = key.partition("/")
    return container, path


def check_key(key: str, containers: frozenset[str]) -> None:
    """
    Raise `Refused` unless a key is in its plain form and inside one of the containers.

    A last empty segment is a folder's marker, as S3 browsers make them. The S3 server would fold `a//b` into `a/b`,
    take a backslash for a slash, and hides what lies in folders whose names end in `.versions` (it keeps its
    versions in such folders), so these are refused rather than stored as something else.
    """
    container, slash, path = key.partition("/")
    if container not in containers:
        raise denied(f"the key lies outside your containers: {key[:200]}")
    problem = key_problem(path) if slash else "it names no file in the container"
    if problem:
        raise Refused(400, "InvalidArgument", f"the key {key[:200]!r} cannot be stored: {problem}")
