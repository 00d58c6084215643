"""One handler of the vendor's platform, unmodified, in all the ways in which it is called: the same is done and recorded."""

import hashlib
import json

import nbformat
import nuclio_sdk
import pytest
from engine_runs import wait_for
from environs import variables
from handler_samples import NEWER
from test_run import command
from test_serving import payload, serving

from libsafe_nb import nuclio, publishing
from libsafe_nb.functions import Functions
from libsafe_nb.verifying import verify

KEY = "relate-ways"
RECORD = "12"
SHA256 = hashlib.sha256(NEWER.encode()).hexdigest()


@pytest.fixture(scope="module")
def handler(tmp_path_factory):
    path = tmp_path_factory.mktemp("ways") / "relate.py"
    path.write_text(NEWER)
    return path


@pytest.fixture(scope="module")
def published(platform, connection, handler):
    """The function's key; disabled afterwards, as others look on the queue as well."""
    publishing.publish(handler, key=KEY, settings=platform.settings)
    functions = Functions(connection.client)
    # Tests of several modules may take turns, and then this is done more than once.
    functions.update(KEY, enabled=True)
    yield KEY
    functions.update(KEY, enabled=False)


@pytest.fixture(scope="module")
def served(platform, handler, published):
    with serving(platform, f"file={handler}", "--published", published, "--running", "1") as found:
        yield found


@pytest.fixture
def letter(connection, container):
    """Stores a file; what it is called and its id."""

    def letter():
        connection.storage.put(container, "/letter.txt", b"Dear archive")
        return connection.client.file_by_path(container, "letter.txt")["id"]

    return letter


@pytest.fixture
def way(request, platform, connection, container, letter, handler, functions, monkeypatch):
    """Calls the handler in one of the ways; its job and its file."""

    def ended(call):
        return wait_for(
            lambda: (
                (found := functions.get_call(call["id"]))["status"] not in ("queued", "running") and found
            ),
            90,
        )

    def called():
        file = letter()
        arguments = ["--container", container, "--file", "/letter.txt", "--param", f"record={RECORD}"]
        done = command(
            platform, "functions", "call", request.getfixturevalue("published"), *arguments, "--wait"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.partition(" job ")[2].split()[0], file

    def triggered():
        key = request.getfixturevalue("published")
        trigger = functions.add_trigger(
            key, "file_created", container_id=container, batch_seconds=0, params={"record": RECORD}
        )
        file = letter()
        call = wait_for(lambda: list(functions.calls(function=key, container_id=container)), 30)[0]
        assert call["trigger"] == {"id": trigger["id"], "type": "file_created", "regex": ""}
        job = ended(call)["job_id"]
        functions.remove_trigger(trigger["id"])
        return job, file

    def over_http(name):
        file = letter()
        answer = request.getfixturevalue("served").call(name, payload(container, file, record=RECORD))
        assert answer.status_code == 200, answer.text
        return answer.json()["job"], file

    def on_nuclio():
        file = letter()
        for name, value in variables(platform.settings).items():
            if name.startswith("LIBSAFE_S3"):
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("LIBSAFE_NB_FUNCTION", str(handler))
        event = payload(container, file, record=RECORD)
        event["api"] = {"url": platform.url, "key_user": platform.settings.key_user}
        context = nuclio_sdk.Context(None, worker_id=0)
        answer = nuclio.handler(context, nuclio_sdk.Event(body=json.dumps(event).encode()))
        assert answer.status_code == 200, answer.body
        return json.loads(answer.body)["job"], file

    ways = {
        "functions call": called,
        "trigger": triggered,
        "serve": lambda: over_http("file"),
        "serve --published": lambda: over_http(KEY),
        "nuclio": on_nuclio,
    }
    return ways[request.param]


@pytest.mark.parametrize(
    ("way", "is_published"),
    [
        ("functions call", True),
        ("trigger", True),
        ("serve", False),
        ("serve --published", True),
        ("nuclio", False),
    ],
    indirect=["way"],
)
def test_the_same_bytes_do_and_leave_the_same(way, is_published, platform, connection, container, functions):
    number, file = way()

    job = connection.client.job(number)
    assert job["status"] == "COMPLETED", job
    assert connection.client.metadata(file) == [
        {"iecode": "relation", "value": [f"aspace:/repositories/2/archival_objects/{RECORD}"]}
    ]
    messages = {each["message"] for each in connection.client.messages(number)}
    assert {"related", f'no metadata yet {{"file": "{file}"}}'} <= messages
    evidence = job["result"]["evidence"]
    report = verify(evidence, settings=platform.settings)
    assert report.exit_code == 0, report.checks
    place = evidence.removeprefix(f"libsafe://{container}/")
    function = json.loads(connection.storage.get(container, place + "record.json"))["function"]
    assert (function["name"], function["notebook_sha256"]) == ("relate.py", SHA256)
    if is_published:
        version = functions.get(KEY)["version"]
        assert function["published"] == {"version": version, "sha256": SHA256}
        assert (function["id"], function["key"]) == (functions.get(KEY)["id"], KEY)
    else:
        assert function["published"] is None
    executed = nbformat.reads(connection.storage.get(container, place + "executed.ipynb").decode(), 4)
    cell = next(each for each in executed.cells if "handler" in each.metadata.get("tags", []))
    assert hashlib.sha256(cell.source.encode()).hexdigest() == SHA256
