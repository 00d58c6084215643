"""Published functions over HTTP: what runs is the version that the platform has as the current one, and nothing else."""

import contextlib
import json
import uuid

import pytest
from test_run import command
from test_serving import KEY, jobs, payload, serving

from libsafe_nb import local, publishing
from libsafe_nb.connection import connect
from libsafe_nb.functions import Functions


@pytest.fixture(scope="module")
def own(home, tmp_path_factory):
    """A platform of this module's own, whose stored bytes may be spoilt, and that may be stopped."""
    with local.serve(tmp_path_factory.mktemp("published")) as platform:
        yield platform


@pytest.fixture(scope="module")
def connection(own):
    with contextlib.closing(connect(settings=own.settings)) as made:
        yield made


@pytest.fixture
def functions(connection):
    return Functions(connection.client)


@pytest.fixture(scope="module")
def publish(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")

    def publish(key, returned):
        path = folder / f"{key}.py"
        path.write_text(f"def handler(context, event):\n    return {returned!r}\n")
        return publishing.publish(path, key=key, settings=own.settings)

    return publish


@pytest.fixture(scope="module")
def served(own, publish):
    for key in ("told", "spoilt"):
        publish(key, f"first {key}")
    with serving(own, "--published", "told", "--published", "other=spoilt", "--running", "2") as found:
        yield found


def answered(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["scraps"]["response"]["body"]


def record(connection, answer):
    container, _, path = answer.json()["evidence"].removeprefix("libsafe://").partition("/")
    return json.loads(connection.storage.get(container, path + "record.json"))


def test_what_is_published_gone_back_and_disabled_acts_on_the_next_call(
    served, publish, functions, connection, container
):
    first = functions.get("told")
    assert answered(served.call("told", payload(container))) == "first told"
    second = publish("told", "second")
    answer = served.call("told", payload(container))
    assert answered(answer) == "second"
    told = record(connection, answer)["function"]
    assert told["published"] == {"version": second["version"], "sha256": second["sha256"]}
    assert (told["notebook_sha256"], told["id"], told["key"]) == (second["sha256"], first["id"], "told")
    assert "/provenance/told/" in answer.json()["evidence"]

    functions.update("told", version=first["version"])
    assert answered(served.call("told", payload(container))) == "first told"

    ran = len(jobs(connection, container))
    functions.update("told", enabled=False)
    refused = served.call("told", payload(container))
    functions.update("told", enabled=True, paused=True)
    paused = served.call("told", payload(container))
    functions.update("told", paused=False)
    assert (refused.status_code, refused.json()["error"]["message"]) == (409, "function told is disabled")
    assert (paused.status_code, paused.headers["Retry-After"]) == (503, "10")
    assert len(jobs(connection, container)) == ran
    assert served.metrics()[("libsafe_nb_calls_total", "409", "told")] == 1


def test_bytes_that_were_changed_start_nothing(served, own, publish, connection, container):
    made = publish("spoilt", f"never {uuid.uuid4()}")
    stored = own.root / "functions" / made["sha256"]
    stored.write_bytes(stored.read_bytes().replace(b"never", b"other"))
    answer = served.call("other", payload(container))

    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True), answer.text
    assert set(answer.json()) == {"error"}
    assert jobs(connection, container) == []


def test_a_payload_may_name_its_function_and_no_other_platform(served, publish, connection, container):
    named = payload(container)
    named["function_data"]["function"] = {"id": "77", "key": "mine"}
    told = record(connection, served.call("told", named))["function"]
    assert (told["id"], told["key"]) == ("77", "mine")

    elsewhere = payload(container)
    elsewhere["api"] = {"url": "http://127.0.0.1:1/api", "key_user": "x9Kq2vX7bT4mK8sW3nR6pYd1"}
    answer = served.call("told", elsewhere)
    assert (answer.status_code, "where told is published" in answer.json()["error"]["message"]) == (400, True)
    assert elsewhere["api"]["key_user"] not in answer.text
    assert len(jobs(connection, container)) == 1


def test_a_function_that_is_none_cannot_be_served(own, served):
    for arguments, said in (
        (["--published", "nobody"], "nobody: the platform has no function of this key"),
        (["--published", "told", "--published", "told"], "NAME=KEY"),
        (["--published", "health=told", "--published", "metrics=told"], "NAME=KEY"),
        ([], "--published KEY"),
    ):
        done = command(own, "serve", *arguments, LIBSAFE_SECRET_SERVE_KEY=KEY)
        assert (done.returncode, done.stdout, said in done.stderr) == (2, "", True), done.stderr


def test_a_platform_that_is_away_and_one_that_has_lost_the_function_start_nothing(home, tmp_path):
    path = tmp_path / "gone.py"
    path.write_text("def handler(context, event):\n    return 'done'\n")
    with contextlib.ExitStack() as stack:
        with local.serve(tmp_path / "first") as platform:
            port = int(platform.url.partition("//")[2].partition(":")[2].partition("/")[0])
            publishing.publish(path, settings=platform.settings)
            found = stack.enter_context(serving(platform, "--published", "gone"))
        away = found.call("gone", payload("1"))
        assert (away.status_code, away.headers["Retry-After"]) == (503, "10"), away.text
        # Another platform at the same address and with the same keys, as after a disk was lost.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIBSAFE_KEY_USER", platform.settings.key_user)
            patch.setenv("LIBSAFE_KEY_ROOT", platform.settings.key_root)
            with local.serve(tmp_path / "second", port=port) as second:
                lost = found.call("gone", payload("1"))
                assert (lost.status_code, set(lost.json())) == (404, {"error"}), lost.text
                with contextlib.closing(connect(settings=second.settings)) as made:
                    assert jobs(made, "1") == []
