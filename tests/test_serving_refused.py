"""What is no right call of a served function is answered rightly, in time and with bounded memory, and starts nothing."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from engine_runs import wait_for
from test_serving import KEY, jobs, payload, serving

QUICK = "def handler(context, event):\n    return 'done'\n"
MOST = 100_000


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "quick.py"
    path.write_text(QUICK)
    return path


@pytest.fixture(scope="module")
def served(platform, quick):
    names = [quick, f"other={quick}"]
    with serving(platform, *names, "--running", "1", "--waiting", "7", "--max-body", MOST) as found:
        yield found


@pytest.fixture(scope="module")
def hasty(platform, quick):
    """A service whose patience is measured in tenths of seconds, and in which one function meets a fault of ours."""
    patch = """
from libsafe_nb import answering, loopback, nuclio
loopback.HEAD_SECONDS = 0.4
answering.BODY_SECONDS = 0.4
answer = nuclio.answer
def broken(payload, path, **options):
    if payload.params.get("broken"):
        raise RuntimeError("with " + payload.api["key_user"])
    return answer(payload, path, **options)
nuclio.answer = broken
"""
    with serving(platform, quick, "--running", "1", patch=patch) as found:
        yield found
    assert "RuntimeError: with [redacted" in found.errors


@pytest.fixture
def nothing_started(connection, container):
    """Holds the test to it: no job and no run folder, and so no kernel."""
    folder = Path(os.environ["LIBSAFE_NB_HOME"]) / "runs"

    def runs():
        return set(folder.iterdir()) if folder.exists() else set()

    before = runs()
    yield
    assert jobs(connection, container) == []
    # What another test has left there may be finished meanwhile.
    assert runs() <= before


@contextlib.contextmanager
def connected(served):
    place = urlsplit(served.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as caller:
        yield caller


def head(name="quick", *more, key=KEY):
    lines = [f"POST /{name} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def received(caller):
    """All that comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := caller.recv(65536):
            found += part
    return found


def idle(served):
    return wait_for(lambda: served.metrics()[("libsafe_nb_admitted",)] == 0, 60)


def refused(answer, status):
    assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
    assert KEY not in answer.text
    return answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "wrong",
    [
        '{"function_data": {"container": {"id": "C"}}',
        "",
        "null",
        '"C"',
        '[{"function_data": {"container": {"id": "C"}}}]',
        "[" * 50_000,
        '{"function_data": {"container": {"id": "C"}}, "function_params": {"l": '
        + "[" * 200
        + "]" * 200
        + "}}",
        '{"function_data": {"container": {"id": "C"}}, "function_params": {"n": NaN}}',
        '{"function_data": {"container": {"id": "C"}}, "function_params": {"n": 1e400}}',
        '{"function_data": {"container": {"id": "C"}}, "function_params": {"n": 1' + "0" * 5000 + "}}",
        '{"function_data": {"container": {"id": "C"}}, "function_params": {"s": "\\ud800"}}',
        '{"function_data": {"container": {"id": "1"}}, "function_data": {"container": {"id": "C"}}}',
        '{"function_data": {"container": {"id": "x"}}}',
        '{"function_data": {"container": {"id": 1' + "0" * 400 + "}}}",
        '{"function_data": {"container": {"id": "99999"}}}',
        '{"function_data": {"container": {"id": "C"}, "job": {"id": "999999"}}}',
        '{"function_data": {"container": {"id": "C"}, "job": {"id": "../1"}}}',
        '{"function_data": {"container": {"id": "C"}, "files": {"ids": ["999999"], "paths": []}}}',
        b"\xff",
        b'{"function_data": {"container": {"id": "\xff"}}}',
    ],
    ids=lambda wrong: repr(wrong[-40:]),
)
def test_a_body_that_is_no_payload(served, container, nothing_started, wrong):
    data = wrong if isinstance(wrong, bytes) else wrong.replace("C", container).encode()

    refused(served.call("quick", data), 400)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_payload_over_the_limit(served, container, nothing_started, chunked):
    data = json.dumps(payload(container, filler="x" * MOST)).encode()
    sent = (data[start : start + 30_000] for start in range(0, len(data), 30_000)) if chunked else data
    headers = {"Authorization": f"Bearer {KEY}"}

    refused(requests.post(f"{served.url}/quick", data=sent, headers=headers, timeout=60), 413)
    assert idle(served)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY} {KEY}",
        f"Bearer {KEY}é".encode(),
        f"Bearer {KEY}é".encode("latin-1"),
        b"Bearer \xff\xfe",
    ],
    ids=repr,
)
def test_a_wrong_key(served, container, nothing_started, authorization):
    """Asked for before anything else is told: whether there is such a function, too."""
    headers = {} if authorization is None else {"Authorization": authorization}
    before = served.metrics().get(("libsafe_nb_calls_total", "", "401"), 0)
    for name in ("quick", "nothing", ""):
        answer = requests.post(f"{served.url}/{name}", json=payload(container), headers=headers, timeout=60)
        refused(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    refused(requests.get(f"{served.url}/metrics", headers=headers, timeout=60), 401)
    assert served.metrics()[("libsafe_nb_calls_total", "", "401")] - before == 3


def test_no_such_function_and_no_such_call(served, container, nothing_started):
    good = payload(container)
    for name in (
        "nothing",
        "",
        "quick/more",
        "quick/",
        "QUICK",
        "%2e%2e%2fquick",
        "quick%00",
        "%ff",
        "x" * 5000,
    ):
        answer = served.call(name, good, allow_redirects=False)
        assert len(refused(answer, 404)) < 400, name
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"):
        answer = requests.request(method, f"{served.url}/quick", json=good, timeout=60)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST"), method


def test_what_is_no_http(served, nothing_started):
    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        head("quick", "Content-Length: 3", "Content-Length: 4") + b"abcd",
        head("quick", "Content-Length: -1"),
        head("quick", "Content-Length: \xb2"),
        head("quick", "Content-Length: " + "9" * 4000) + b"{}",
        head("quick", "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n",
        head("quick", *[f"X-{number}: {'a' * 1000}" for number in range(2000)], "Content-Length: 2") + b"{}",
    ):
        with connected(served) as caller:
            # It may have answered and gone by then.
            with contextlib.suppress(OSError):
                caller.sendall(sent)
                caller.shutdown(socket.SHUT_WR)
            answer = received(caller)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")), answer
    assert idle(served)


def test_a_caller_that_goes_away_in_the_middle_of_its_payload(served, nothing_started):
    with connected(served) as caller:
        caller.sendall(head("quick", "Content-Length: 500") + b"{")
        wait_for(lambda: served.metrics()[("libsafe_nb_admitted",)] == 1, 60)
    assert idle(served)


def test_payloads_that_wait_take_no_more_than_four_of_the_greatest(served, container, nothing_started):
    """Six callers send most of a payload each, and then nothing."""
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connected(served)) for _ in range(6)]
        for caller in callers:
            caller.sendall(head("quick", f"Content-Length: {MOST}", "Connection: close") + b"[" * (MOST - 1))
        name = ("libsafe_nb_calls_total", "429", "quick")
        wait_for(lambda: served.metrics().get(name, 0) == 2, 60)
        for caller in callers:
            with contextlib.suppress(ConnectionError):
                caller.sendall(b"[")
        answers = [received(caller) for caller in callers]
    assert sorted(each.split(b" ")[1] for each in answers) == [b"400"] * 4 + [b"429"] * 2
    assert all(b"retry-after: " in each for each in answers if b" 429 " in each)
    assert idle(served)


def test_who_is_slow_to_ask_is_not_waited_for(hasty, nothing_started):
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connected(hasty)) for _ in range(20)]
        for number, caller in enumerate(callers):
            caller.sendall(head()[: number * 3])
        assert [received(caller) for caller in callers] == [b""] * 20
    with connected(hasty) as caller:
        # Nor where it asks a second time.
        caller.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        assert received(caller).count(b"HTTP/1.1") == 1


def test_who_is_slow_to_send_its_payload_is_not_waited_for(hasty, nothing_started):
    with connected(hasty) as caller:
        caller.sendall(head("quick", "Content-Length: 500", "Connection: close") + b"{")
        answer = received(caller)
        assert answer.startswith(b"HTTP/1.1 408"), answer
    assert idle(hasty)


def test_a_fault_of_ours_is_500_and_tells_nothing(hasty, platform, container, nothing_started):
    body = payload(container, broken=True)
    body["api"] = {"url": platform.url, "key_user": "x9Kq2vX7bT4mK8sW3nR6pYd1"}
    answer = hasty.call("quick", body)

    assert "the service's log says more" in refused(answer, 500)
    assert body["api"]["key_user"] not in answer.text
    assert hasty.call("quick", payload("99999")).status_code == 400


def test_a_run_that_does_not_end_is_left_at_the_third_signal(platform, quick, container, tmp_path):
    patch = f"""
import tempfile, time
from libsafe_nb import nuclio
tempfile.tempdir = {str(tmp_path)!r}
nuclio.answer = lambda *_, **__: time.sleep(600)
"""
    with (
        serving(platform, quick, patch=patch, code=3) as found,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        call = pool.submit(found.call, "quick", payload(container))
        wait_for(lambda: found.metrics()[("libsafe_nb_running",)] == 1, 60)
        for _ in range(2):
            found.process.send_signal(signal.SIGTERM)
            # Signals that come together are one.
            time.sleep(0.5)
        assert found.process.poll() is None
        assert requests.get(f"{found.url}/health", timeout=60).status_code == 503
        found.process.send_signal(signal.SIGTERM)
        assert found.process.wait(60) == 3
        assert "libsafe-nb recover" in refused(call.result(), 503)
    assert "Traceback" not in found.errors
    assert "1 call had not ended; libsafe-nb recover" in found.errors
