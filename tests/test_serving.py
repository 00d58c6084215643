"""Functions over HTTP: each call is answered rightly, and nothing is started that should not be."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import prometheus_client.parser
import pytest
import requests
from environs import variables
from test_run import command

KEY = "tG5hN8jM2kL4pQ7rS9vX"
SLOW = """
import time, pathlib
def handler(context, event):
    context.logger.warn("begun")
    time.sleep(600)
"""


class Served:
    def __init__(self, process, url):
        self.process, self.url = process, url

    def call(self, name, payload, *, key=KEY, **options):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = payload if isinstance(payload, bytes) else json.dumps(payload)
        return requests.post(f"{self.url}/{name}", data=body, headers=headers, timeout=120, **options)

    def metrics(self):
        text = requests.get(
            f"{self.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}, timeout=30
        ).text
        families = prometheus_client.parser.text_string_to_metric_families(text)
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }


@contextlib.contextmanager
def serving(platform, *arguments, key=KEY, patch="", code=0):
    """The program in a process of its own; `patch` is Python that runs in it first, `code` how it has to end."""
    environ = {**os.environ, **variables(platform.settings), "LIBSAFE_SECRET_SERVE_KEY": key}
    program = f"{patch}\nfrom libsafe_nb.cli import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", *map(str, arguments)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("serving on http://127.0.0.1:"), process.communicate()
        yield (found := Served(process, line.split()[-1]))
    finally:
        process.terminate()
        output = process.communicate(timeout=90)
    found.errors = output[1]
    assert process.returncode == code, output
    assert "Traceback" not in output[1] or patch


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "quick.py").write_text("def handler(context, event):\n    return 'done'\n")
    (folder / "broken.py").write_text("def handler(context, event):\n    raise ValueError('no')\n")
    return folder


@pytest.fixture(scope="module")
def served(platform, functions):
    names = [functions / name for name in ("quick.py", "broken.py")]
    with serving(platform, *names, "--running", "2", "--waiting", "2", "--max-body", "100000") as found:
        yield found


def payload(container, *files, **params):
    function_data = {"container": {"id": container}, "files": {"ids": list(files), "paths": []}}
    return {"function_data": function_data, "function_params": params}


def jobs(connection, container):
    return list(connection.client.jobs(container=container))


def test_a_function_that_fails_is_told_as_failed(served, container):
    answer = served.call("broken", payload(container))

    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert answer.json()["error"]["type"] == "ValueError"


def test_200_calls_at_once_are_each_answered_and_only_those_run(served, connection, container):
    before = served.metrics()
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: served.call("quick", payload(container)), range(200)))

    ran = [each.json() for each in answers if each.status_code == 200]
    refused = [each for each in answers if each.status_code == 429]
    assert len(ran) + len(refused) == 200, {each.status_code for each in answers}
    assert len(ran) >= 4
    assert {each["status"] for each in ran} == {"completed"}
    assert all(int(each.headers["Retry-After"]) >= 1 for each in refused)
    assert sorted(each["job"] for each in ran) == sorted(job["id"] for job in jobs(connection, container))
    after = served.metrics()
    name = ("libsafe_nb_calls_total", "200", "quick")
    assert after[name] - before.get(name, 0) == len(ran)
    assert (after[("libsafe_nb_running",)], after[("libsafe_nb_admitted",)]) == (0, 0)


def test_health_needs_no_key(served):
    answer = requests.get(f"{served.url}/health", timeout=30)

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_job_is_not_run_twice_at_once_and_sigterm_hands_over(platform, tmp_path, connection, container):
    """What runs when the service is ended gets its grace, and is then cancelled with its evidence stored."""
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    body = payload(container)
    job = connection.client.create_job(container)["id"]
    body["function_data"]["job"] = {"id": job}
    with (
        serving(platform, path, "--running", "1", "--grace", "0.5") as found,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(found.call, "", body)
        while not any(each["message"] == "begun" for each in connection.client.messages(job)):
            time.sleep(0.1)
        # What is served is what the file was at the start.
        path.write_text("def handler(context, event):\n    return 'changed'\n")
        assert found.call("slow", body).status_code == 409
        body["function_data"]["job"]["id"] = f"0{job}"
        assert found.call("slow", body).status_code == 409
        waiting = pool.submit(found.call, "slow", payload(container))
        while found.metrics()[("libsafe_nb_admitted",)] < 2:
            time.sleep(0.05)
        found.process.send_signal(signal.SIGTERM)
        answer, other = first.result(), waiting.result()

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    assert connection.client.job(job)["status"] in ("FAILED", "CANCELLED")
    prefix = answer.json()["evidence"].removeprefix(f"libsafe://{container}/")
    assert b"begun" in connection.storage.get(container, prefix + "executed.ipynb")
    assert (other.status_code, other.headers["Retry-After"]) == (503, "5")
    assert [each["id"] for each in jobs(connection, container)] == [job]


def test_what_cannot_be_served_is_exit_2_and_one_sentence(platform, functions, tmp_path):
    good = str(functions / "quick.py")
    (tmp_path / "open.key").write_text(KEY)
    (tmp_path / "open.key").chmod(0o644)
    (tmp_path / "plain.py").write_text("1\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, environ, said in (
            ([good], {}, "LIBSAFE_SECRET_SERVE_KEY"),
            ([good], {"LIBSAFE_SECRET_SERVE_KEY": "abc"}, "at least"),
            ([good], {"LIBSAFE_SECRET_SERVE_KEY": "Schlüssel-für-alles"}, "printable ASCII"),
            ([good], {"LIBSAFE_SECRET_SERVE_KEY_FILE": str(tmp_path / "open.key")}, "chmod 600"),
            ([good, good], {"LIBSAFE_SECRET_SERVE_KEY": KEY}, "NAME=FUNCTION"),
            ([f"health={good}"], {"LIBSAFE_SECRET_SERVE_KEY": KEY}, "NAME=FUNCTION"),
            (
                [good, "--port", str(taken.getsockname()[1])],
                {"LIBSAFE_SECRET_SERVE_KEY": KEY},
                "cannot be listened on",
            ),
            ([str(tmp_path / "plain.py")], {"LIBSAFE_SECRET_SERVE_KEY": KEY}, "def handler"),
        ):
            done = command(platform, "serve", *arguments, **environ)
            assert (done.returncode, done.stdout, said in done.stderr) == (2, "", True), done.stderr
            assert "Traceback" not in done.stderr
