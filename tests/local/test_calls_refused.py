"""Calls on demand that are not right: each is answered rightly, and leaves no job, no call and no run."""

import base64
import json
import socket
import uuid
from urllib.parse import urlsplit

import pytest
import requests

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def paused(rest):
    """A function whose calls are taken and not started."""
    key = f"f-{uuid.uuid4().hex[:8]}"
    body = {"key": key, "kind": "notebook", "name": "f.ipynb"}
    rest.ok("POST", "/function", json={**body, "content": base64.b64encode(b'{"cells": []}').decode()})
    return rest.ok("PUT", f"/function/{key}", json={"paused": True})["key"]


@pytest.fixture
def nothing_started(served, rest, container, paused):
    """Holds the test to it."""

    def there():
        runs = served.root / "runs"
        return (
            [each["id"] for each in rest.ok("GET", "/job", params={"container_id": container})],
            [each["id"] for each in rest.ok("GET", "/call", params={"container_id": container})],
            rest.ok("GET", f"/function/{paused}")["queued"],
            sorted(path.name for path in runs.iterdir()) if runs.exists() else [],
        )

    before = there()
    yield
    assert there() == before


def send(served, rest, key, data, **headers):
    given = {**rest.session.headers, "Content-Type": "application/json", **headers}
    return requests.post(
        f"{served.url}/function/{key}/call",
        data=data,
        headers={name: value for name, value in given.items() if value is not None},
        timeout=60,
    )


def body(container, **more):
    return json.dumps({"container_id": container, **more})


@pytest.mark.parametrize(
    "wrong",
    [
        '{"container_id": C',
        "",
        "null",
        '"C"',
        "[{}]",
        "[" * 100_000,
        '{"container_id": C, "params": {"n": NaN}}',
        '{"container_id": C, "params": {"n": -Infinity}}',
        '{"container_id": C, "params": {"n": 1' + "0" * 5000 + "}}",
        '{"container_id": ' + "9" * 400 + "}",
        '{"container_id": 1e400}',
        '{"container_id": "C\\u0000"}',
        '{"container_id": "\\ud800"}',
        '{"container_id": "1", "container_id": C}',
        '{"container_id": C, "params": {"a": 1, "a": 2}}',
        '{"container_id": C, "params": []}',
        '{"container_id": C, "params": {"n": 1e400}}',
        '{"container_id": C, "params": {"s": "\\udc00"}}',
        '{"container_id": C, "params": {"l": ' + "[" * 200 + "]" * 200 + "}}",
        '{"container_id": C, "file_ids": "1"}',
        '{"container_id": C, "file_ids": [{}]}',
        '{"container_id": C, "paths": [7]}',
        '{"container_id": C, "priority": true}',
        '{"container_id": C, "priority": 1e3}',
        '{"container_id": C, "version": {}}',
        b'{"container_id": "\xff"}',
        b'\xff\xfe{\x00}\x00"',
    ],
    ids=lambda wrong: repr(wrong[:40]),
)
def test_a_body_that_is_no_call(served, rest, container, paused, nothing_started, wrong):
    data = wrong if isinstance(wrong, bytes) else wrong.replace("C", container).encode()
    answer = send(served, rest, paused, data)

    assert answer.status_code == 400, answer.text
    assert (answer.json()["success"], bool(answer.json()["msg"])) == (False, True)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer wrong", 401),
        ("Basic KEY", 401),
        ("KEY", 401),
        ("Bearer KEYx", 401),
        ("Bearer KEY KEY", 401),
        (b"Bearer \xff\xfe\xe9", 401),
        ("Bearer KÉY".encode(), 401),
        ("bearer KEY", 400),
    ],
    ids=repr,
)
def test_a_wrong_key(served, rest, paused, nothing_started, authorization, status):
    """The scheme's case does not matter; then it is the body that is wrong."""
    key = rest.session.headers["Authorization"].removeprefix("Bearer ")
    if isinstance(authorization, str):
        authorization = authorization.replace("KEY", key)
    answer = send(served, rest, paused, b"{", Authorization=authorization)

    assert answer.status_code == status, answer.text
    assert key not in answer.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit(served, rest, container, paused, nothing_started, chunked):
    data = body(container).encode() + b" " * (64 * MIB)
    sent = (data[start : start + MIB] for start in range(0, len(data), MIB)) if chunked else data

    assert send(served, rest, paused, sent).status_code == 413


def test_a_length_that_is_none(served, rest, paused, nothing_started):
    place = urlsplit(served.url)
    for length in ("-1", "1, 2", "9" * 19, "9" * 5000, "\xb2"):
        with socket.create_connection((place.hostname, place.port), timeout=60) as caller:
            key = rest.session.headers["Authorization"]
            head = f"POST /api/function/{paused}/call HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
            caller.sendall(f"{head}Content-Length: {length}\r\n\r\n{{}}".encode("latin-1"))
            answer = caller.recv(65536)
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")), (length, answer)


def test_what_is_not_there_or_may_not_be_called(served, rest, other, container, paused, nothing_started):
    for key in ("nobody", "%2e%2e", "%ff", "a%00b", "x" * 5000, "ü"):
        assert send(served, rest, key, body(container)).status_code == 404, key
    assert send(served, rest, paused, body("999999")).status_code == 404
    assert send(served, rest, paused, body(container, version=99)).status_code == 404
    assert send(served, other.rest, paused, body(container)).status_code == 403
    rest.ok("PUT", f"/function/{paused}", json={"enabled": False})
    try:
        assert send(served, rest, paused, body(container)).status_code == 409
    finally:
        rest.ok("PUT", f"/function/{paused}", json={"enabled": True})
    for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
        answer = rest.send(method, f"/function/{paused}/call")
        assert answer.status_code == 405, method
