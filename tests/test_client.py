"""The REST client against servers that misbehave: what is repeated, what is believed, what is told."""

import io
import pickle
import re
import socket
import threading
import time

import pytest
from faults import ScriptedServer, drip, good, refusal, reset, truncated
from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb import errors
from libsafe_nb.client import Client, batches
from libsafe_nb.endpoints import ENDPOINTS
from libsafe_nb.shapes import with_string_ids

KEY = "k3y-of-a-user-that-must-stay-secret-0123456789"
HTML = (200, {"Content-Type": "text/html"}, b"<html>Please log in</html>")
BUSY = (503, {"Retry-After": "0"}, b"busy")


def talk(*script, budget=5.0, act=lambda client: client.job("7")):
    """What `act` returned or raised, and the requests that the scripted server saw."""
    with ScriptedServer(*script) as server, Client(server.url, KEY, timeout=(1, 1), budget=budget) as client:
        try:
            return act(client), server.seen
        except errors.LibsafeError as exc:
            return exc, server.seen


def test_the_key_goes_into_the_header_and_nowhere_else():
    (_, ((method, path, headers, body),)) = talk(good({"id": 7}))

    assert (method, path, body) == ("GET", "/api/job/7", b"")
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr([path, {k: v for k, v in headers.items() if k != "Authorization"}])


@pytest.mark.parametrize("suffix", ["", "/", "/api", "/api/"])
def test_the_address_is_taken_with_and_without_api(suffix):
    with ScriptedServer(good()) as server, Client(server.url + suffix, KEY) as client:
        client.health()

    assert server.seen[0][1] == "/api/health"


def test_netrc_does_not_replace_the_key(tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    _, ((_, _, headers, _),) = talk(good({}))

    assert headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "clé"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_untold(key):
    with pytest.raises(errors.SettingsError) as caught:
        Client("http://127.0.0.1:1", key)

    assert not key or key not in str(caught.value)


def test_ids_become_strings():
    rows = {"id": 7, "container_id": 1, "parent_id": None, "progress": 1, "tags": [3, "4"], "online": True}

    assert with_string_ids(rows) == {
        "id": "7",
        "container_id": "1",
        "parent_id": None,
        "progress": 1,
        "tags": ["3", "4"],
        "online": True,
    }


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.PlatformError),
        (200, errors.PlatformError),
        (201, errors.PlatformError),
    ],
)
def test_a_refusal_carries_what_the_server_said_and_is_not_repeated(status, kind):
    exc, seen = talk(refusal(status, "no such job here"))

    assert type(exc) is kind
    assert "no such job here" in str(exc)
    assert (exc.method, exc.status) == ("GET", status)
    assert exc.url.endswith("/api/job/7")
    assert len(seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        HTML,
        (200, {}, b""),
        (200, {}, b"[]"),
        (200, {}, b'{"result": 1}'),
        (200, {}, b'{"success": "true"}'),
        (200, {}, b'{"success": 1}'),
        (200, {}, b"[" * 100_000),
        (200, {"Content-Type": "application/json"}, b'{"success": true, "resu'),
        (200, {}, b"\xff\xfe"),
    ],
)
def test_http_200_is_not_believed(answer):
    """Repeated a few times, as it may be a proxy's; then told, with what was found."""
    exc, seen = talk(answer)

    assert type(exc) is errors.PlatformError
    assert re.search(r"GET http://\S+/api/job/7: expected a JSON object with `success`, found ", str(exc))
    assert len(seen) == 4


@pytest.mark.parametrize(
    "fault",
    [HTML, BUSY, reset, truncated, (500, {}, b""), (429, {"Retry-After": "0"}, b""), (502, {}, b"<html>")],
)
def test_a_passing_fault_is_ridden_out(fault):
    result, seen = talk(fault, fault, good({"id": 7}))

    assert result == {"id": "7"}
    assert len(seen) == 3


@pytest.mark.parametrize("fault", [BUSY, reset, truncated, (500, {}, b"")])
def test_a_write_is_repeated_with_the_same_idempotency_key(fault):
    result, seen = talk(fault, good({"id": 1}), act=lambda client: client.message("7", "hello"))

    keys = [headers["Idempotency-Key"] for _, _, headers, _ in seen]
    assert result == {"id": "1"}
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert seen[0][3] == seen[1][3] == b'{"type": "INFO", "message": "hello"}'


def test_each_write_has_a_key_of_its_own_or_the_callers():
    def act(client):
        client.message("7", "a")
        client.message("7", "b")
        client.message("7", "c", idempotency_key="mine")

    _, seen = talk(good({}), act=act)
    first, second, third = (headers["Idempotency-Key"] for _, _, headers, _ in seen)

    assert first != second
    assert third == "mine"


def test_a_container_is_never_created_twice():
    """Its answer was lost, so it may exist; a real platform is not known to honour an Idempotency-Key."""
    exc, seen = talk(reset, act=lambda client: client.create_container("x"))

    assert type(exc) is errors.Unreachable
    assert len(seen) == 1


def test_a_container_is_created_once_the_server_is_not_busy_any_more():
    result, seen = talk(BUSY, good({"id": 4}), act=lambda client: client.create_container("x"))

    assert result == {"id": "4"}
    assert len(seen) == 2


def test_a_server_that_is_away_is_waited_for(tmp_path):
    """Refused connections are repeated within the budget, also for what must not be sent twice."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ScriptedServer.__new__(ScriptedServer)

    def start_later():
        time.sleep(0.5)
        server.__init__(good({"id": 1}), port=port)
        server.__enter__()

    thread = threading.Thread(target=start_later)
    thread.start()
    with Client(f"http://127.0.0.1:{port}", KEY, budget=20) as client:
        assert client.create_container("x") == {"id": "1"}
    thread.join()
    server.__exit__()


def test_the_budget_ends_the_waiting():
    start = time.monotonic()
    exc, seen = talk((503, {}, b""), budget=1.0)

    assert type(exc) is errors.Unreachable
    assert "HTTP 503" in str(exc)
    assert "1 s" in str(exc)
    assert time.monotonic() - start < 5
    assert len(seen) > 2


def test_a_retry_after_beyond_the_budget_ends_it_at_once():
    start = time.monotonic()
    exc, seen = talk((503, {"Retry-After": "30"}, b""), budget=10.0)

    assert type(exc) is errors.Unreachable
    assert time.monotonic() - start < 5
    assert len(seen) == 1


def test_an_answer_that_drips_does_not_outlast_the_budget():
    """Each byte is in time, the whole never: 1,000 bytes at 50 ms are 50 s."""
    start = time.monotonic()
    exc, _ = talk(drip, budget=1.0)

    assert type(exc) is errors.Unreachable
    assert time.monotonic() - start < 10


def test_a_redirect_is_told_and_not_followed():
    """Following it could hand the key to another host."""
    with ScriptedServer(good({})) as other:
        exc, _ = talk((302, {"Location": f"{other.url}/api/job/7?token=x"}, b""))

        assert other.seen == []
        assert f"redirects to {other.url}/api/job/7, which is not followed" in str(exc)


def test_listings_page_while_they_are_read():
    pages = [
        (200, {}, b'{"success": true, "result": [{"id": 1}, {"id": 2}], "next": "c2"}'),
        (200, {}, b'{"success": true, "result": [{"id": 3}], "next": null}'),
    ]

    def act(client):
        rows = client.files("5", page=2)
        return next(rows)["id"], len(client_seen()), [row["id"] for row in rows]

    with ScriptedServer(*pages) as server, Client(server.url, KEY) as client:

        def client_seen():
            return server.seen

        assert act(client) == ("1", 1, ["2", "3"])
    assert [path for _, path, _, _ in server.seen] == [
        "/api/container/5/file/list?limit=2",
        "/api/container/5/file/list?limit=2&after=c2",
    ]


def test_a_cursor_that_stands_still_ends_the_listing():
    same = (200, {}, b'{"success": true, "result": [{"id": 1}], "next": "c"}')
    rows, _ = talk(same, act=lambda client: list(client.jobs()))

    assert len(rows) == 2


def test_search_carries_its_cursor_in_the_body():
    page = (200, {}, b'{"success": true, "result": [{"id": 1}], "next": 9}')
    condition = {"property": "size", "operator": "gt", "value": 702}
    _, seen = talk(page, good([]), act=lambda client: list(client.search([condition], page=10)))

    assert b'"limit": 10, "after": 9' in seen[1][3]


def test_paths_are_quoted_and_cannot_reach_another_call():
    _, seen = talk(good({}), act=lambda client: client.file_by_path("5", "/a b/ü?#%.txt"))
    exc, unsent = talk(good({}), act=lambda client: client.file_by_path("5", "../../job/1"))
    other, _ = talk(good({}), act=lambda client: client.file("1/metadata"))

    assert seen[0][1] == "/api/container/5/file/path/a%20b/%C3%BC%3F%23%25.txt"
    assert type(exc) is errors.UsageError
    assert unsent == []
    assert other == {}


def test_an_upload_goes_in_chunks_of_the_form_that_clients_use(monkeypatch):
    monkeypatch.setattr("libsafe_nb.client.CHUNK", 10)
    _, (*seen, look) = talk(
        good({}),
        act=lambda client: client.upload_file("5", io.BytesIO(b"#" * 25), name="a.txt", folder="/d/"),
    )

    assert [re.search(rb'name="chunkIndex"\r\n\r\n(\d+)', body)[1] for *_, body in seen] == [b"0", b"1", b"2"]
    assert all(
        b'name="fileName"\r\n\r\na.txt' in body and b'name="path"\r\n\r\nd\r' in body for *_, body in seen
    )
    assert [body.count(b"#") for *_, body in seen] == [10, 10, 5]
    assert look[:2] == ("GET", "/api/container/5/file/path/d/a.txt")


def test_every_call_of_the_table_can_be_sent():
    values = {"container": 1, "file": 2, "job": 3, "tag": 4, "user": 5, "path": "a/b"}
    with ScriptedServer(good({})) as server, Client(server.url, KEY) as client:
        for name, endpoint in ENDPOINTS.items():
            used = {key: value for key, value in values.items() if f"{{{key}" in endpoint.path}
            assert client.call(name, **used) == {}

    assert [method for method, *_ in server.seen] == [each.method for each in ENDPOINTS.values()]
    assert all(("Idempotency-Key" in headers) == (method != "GET") for method, _, headers, _ in server.seen)


def test_a_call_outside_the_table():
    result, seen = talk(
        good({"id": 3}), act=lambda client: client.request("get", "/workflow/3", params={"a": 1})
    )

    assert result == {"id": "3"}
    assert seen[0][:2] == ("GET", "/api/workflow/3?a=1")


def test_errors_pickle_and_hold_no_key():
    for script in ([refusal(401, "wrong key")], [HTML], [reset], [drip]):
        exc, _ = talk(*script, budget=1.0)
        again = pickle.loads(pickle.dumps(exc))

        assert (type(again), str(again), again.facts) == (type(exc), str(exc), exc.facts)
        chain = []
        while exc is not None:
            chain.append(repr((exc, str(exc), exc.args, getattr(exc, "facts", None))))
            exc = exc.__cause__ or exc.__context__
        assert KEY not in "".join(chain)


def test_many_threads_share_a_client():
    with ScriptedServer(good({"id": 1})) as server, Client(server.url, KEY) as client:
        threads = [threading.Thread(target=lambda: [client.job("1") for _ in range(10)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(server.seen) == 80


@given(st.lists(st.integers()), st.integers(min_value=1, max_value=7))
def test_batches_lose_nothing(rows, size):
    found = list(batches(rows, size))

    assert [row for batch in found for row in batch] == rows
    assert all(len(batch) == size for batch in found[:-1])
    assert all(found)
