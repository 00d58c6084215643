"""The REST client against servers that misbehave: what is repeated, what is believed, what is told."""

import contextlib
import io
import pickle
import re
import socket
import threading
import time
from email.utils import formatdate

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
def test_http_200_is_not_believed(answer, monkeypatch):
    """Repeated as it may be a proxy's; then told, with what was found."""
    monkeypatch.setattr("libsafe_nb.patience.FIRST", 0.01)
    exc, seen = talk(answer)

    assert type(exc) is errors.PlatformError
    assert re.search(r"GET http://\S+/api/job/7: expected a JSON object with `success`, found ", str(exc))
    assert len(seen) == 6


def test_a_page_in_place_of_answers_is_told_within_seconds():
    """A wrong address or a log-in page does not pass: the budget of a minute is not waited for."""
    start = time.monotonic()
    exc, seen = talk(HTML, budget=60.0)

    assert type(exc) is errors.PlatformError
    assert len(seen) == 6
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("status", [200, 201])
def test_a_refusal_within_http_200_is_believed_when_it_stands(status):
    """It may be a passing fault, so it is asked again twice, at once; a refusal has not acted."""
    start = time.monotonic()
    exc, seen = talk(refusal(status, "no such job here"))
    passed, _ = talk(refusal(status, "locked"), refusal(status, "locked"), good({"id": 7}))

    assert (type(exc), len(seen), exc.status) == (errors.PlatformError, 3, status)
    assert str(exc).endswith("no such job here")
    assert passed == {"id": "7"}
    assert time.monotonic() - start < 3


def test_a_refusal_within_http_200_ends_what_must_not_be_sent_twice():
    exc, seen = talk(refusal(200, "no"), act=lambda client: client.create_container("x"))

    assert (type(exc), len(seen)) == (errors.PlatformError, 1)


@pytest.mark.parametrize(
    "fault",
    [HTML, BUSY, reset, truncated, (500, {}, b""), (429, {"Retry-After": "0"}, b""), (502, {}, b"<html>")],
)
def test_a_passing_fault_is_ridden_out(fault):
    """Four in a row, which were once too many."""
    result, seen = talk(*[fault] * 4, good({"id": 7}), budget=20.0)

    assert result == {"id": "7"}
    assert len(seen) == 5


def test_faults_of_different_kinds_do_not_add_up():
    """Each kind has its own patience: a run of five pages, two refusals and some resets is ridden out."""
    script = [
        HTML,
        reset,
        refusal(200, "no"),
        HTML,
        (500, {}, b""),
        refusal(200, "no"),
        HTML,
        good({"id": 7}),
    ]
    result, seen = talk(*script, budget=30.0)

    assert result == {"id": "7"}
    assert len(seen) == len(script)


FULL = (
    429,
    {"Retry-After": "0", "Content-Type": "application/json"},
    b'{"success": false, "msg": "5 calls wait"}',
)


def test_that_there_are_too_many_is_told_in_the_servers_words():
    exc, seen = talk(FULL, budget=1.5)

    assert (type(exc), exc.status, len(seen) > 1) == (errors.Unreachable, 429, True)
    assert "HTTP 429: 5 calls wait (asked in" in str(exc)
    assert "no answer" not in str(exc)


def test_or_at_once_where_nobody_wants_to_wait():
    act = lambda client: client.call("call_create", function="f", json={}, when_full=False)  # noqa: E731
    exc, seen = talk(FULL, act=act)

    assert (type(exc), exc.status, len(seen)) == (errors.Unreachable, 429, 1)
    assert str(exc).endswith("HTTP 429: 5 calls wait")


def test_an_error_that_lasts_is_unreachable_in_the_end():
    """A 500 may be a restart's, so the whole budget is spent on it; the last is told."""
    exc, seen = talk((500, {}, b""), budget=1.5)

    assert type(exc) is errors.Unreachable
    assert re.search(r"no answer in \d+ tries and 1.5 s; the last: HTTP 500", str(exc))
    assert exc.status == 500
    assert len(seen) > 3


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


@pytest.mark.parametrize("status", [501, 505])
def test_what_the_server_cannot_do_is_not_asked_again(status):
    exc, seen = talk((status, {}, b""))

    assert (type(exc), len(seen)) == (errors.PlatformError, 1)


def test_a_server_that_asks_to_come_back_at_once_is_not_hammered():
    _, seen = talk((503, {"Retry-After": "0"}, b""), budget=1.5)

    assert len(seen) < 8


def test_a_container_is_never_created_twice():
    """Its answer was lost, so it may exist; a real platform is not known to honour an Idempotency-Key."""
    exc, seen = talk(reset, act=lambda client: client.create_container("x"))

    assert type(exc) is errors.Unreachable
    assert len(seen) == 1


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_container_is_not_created_again_after_a_gateways_error(status):
    """The gateway had passed it on, perhaps: 502 and 504 were once taken for "not acted on"."""
    exc, seen = talk((status, {}, b""), good({}), act=lambda client: client.create_container("x"))

    assert isinstance(exc, errors.Unreachable) == (status != 500)
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


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_retry_after_is_read_by_the_clock_that_wrote_it(hours):
    """Its date is hours from ours, and one second after its own: the call waits one second."""
    now = time.time() + hours * 3600
    busy = (503, {"Date": formatdate(now, usegmt=True), "Retry-After": formatdate(now + 1, usegmt=True)}, b"")
    start = time.monotonic()
    result, seen = talk(busy, good({"id": 7}), budget=20.0)

    assert result == {"id": "7"}
    assert len(seen) == 2
    assert 0.9 < time.monotonic() - start < 5


@pytest.mark.parametrize("value", ["soon", "-1", "", "Thu, 99 Foo 2026", "1e9"])
def test_a_retry_after_that_says_nothing_is_not_used(value):
    result, _ = talk((503, {"Retry-After": value}, b""), good({"id": 7}))

    assert result == {"id": "7"}


def test_a_handshake_that_is_cut_is_no_bad_certificate():
    """It is repeated, and told as what it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tries = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.recv(100_000)
                    tries.append(client.close())

        thread = threading.Thread(target=accept)
        thread.start()
        address = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with (
            Client(address, KEY, budget=1.0) as client,
            pytest.raises(errors.Unreachable, match="no answer in") as caught,
        ):
            client.job("7")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()

    assert "certificate" not in str(caught.value)
    assert len(tries) > 2


@pytest.mark.parametrize(
    ("answer", "honours"),
    [
        (good({"status": "ok", "idempotency": True}), True),
        (good({"status": "ok"}), False),
        (good({"idempotency": "yes"}), False),
        (good("ok"), False),
        (refusal(404, "no such call"), False),
        (refusal(401, "a key is needed"), False),
        (HTML, False),
    ],
)
def test_whether_writes_may_be_repeated_is_the_platforms_to_say(answer, honours):
    assert talk(answer, act=lambda client: client.honours_idempotency())[0] is honours


def test_a_platform_that_does_not_answer_says_nothing_of_idempotency():
    exc, _ = talk(reset, budget=0.5, act=lambda client: client.honours_idempotency())

    assert type(exc) is errors.Unreachable


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
    values |= {"function": "f", "number": 1, "trigger": 6, "call": 7}
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
