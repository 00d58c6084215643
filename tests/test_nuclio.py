"""A notebook or a handler as a Nuclio function: the platform's events in, job and status out."""

import asyncio
import io
import json

import nuclio_sdk
import nuclio_sdk.json_encoder
import nuclio_sdk.logger
import pytest
from environs import variables
from test_run import REAL

import libsafe_nb
from libsafe_nb import errors, nuclio


@pytest.fixture
def deployed(platform, monkeypatch):
    """Sets the environment of a Nuclio container; the user's key comes with the payload."""
    for name, value in variables(platform.settings).items():
        if name.startswith("LIBSAFE_S3"):
            monkeypatch.setenv(name, value)

    def deployed(path, **environ):
        monkeypatch.setenv("LIBSAFE_NB_FUNCTION", str(path))
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    return deployed


@pytest.fixture
def payload(platform, container):
    def payload(*files, **params):
        return {
            "api": {"url": platform.url, "key_user": platform.settings.key_user, "key_root": ""},
            "function_data": {
                "container": {"id": container},
                "files": {"ids": list(files), "paths": []},
                "trigger": {"id": "4", "type": "file_created", "regex": ".*"},
                "function": {"id": "3", "key": "relate"},
            },
            "function_params": params,
        }

    return payload


@pytest.fixture
def context():
    """Nuclio's own context; what its logger was told is `context.told`."""
    logger, told = nuclio_sdk.Logger("DEBUG", "test"), io.StringIO()
    logger.set_handler("default", told, nuclio_sdk.logger.JSONFormatter())
    made = nuclio_sdk.Context(logger, worker_id=0, trigger=nuclio_sdk.TriggerInfo("http", "http"))
    made.told = told
    return made


def call(context, body):
    """As Nuclio's wrapper does: the entry point's answer, encoded and read again."""
    returned = libsafe_nb.nuclio.handler(context, nuclio_sdk.Event(body=body))
    assert isinstance(returned, nuclio_sdk.Response)
    encoder = nuclio_sdk.json_encoder.Encoder()
    sent = json.loads(encoder.encode(nuclio_sdk.Response.from_entrypoint_output(encoder.encode, returned)))
    assert sent["content_type"] == "application/json"
    return sent["status_code"], json.loads(sent["body"])


@pytest.mark.parametrize("form", [json.dumps, lambda body: json.dumps(body).encode(), lambda body: body])
def test_a_notebook_runs_for_text_bytes_and_an_object(form, deployed, payload, context, notebook, connection):
    deployed(notebook("assert json_sample['api']['key_user']\nprint(json_sample['function_params'])"))
    libsafe_nb.nuclio.init_context(context)
    status, body = call(context, form(payload(colour="red")))

    assert (status, body["status"], body["outcome"]) == (200, "completed", "COMPLETED"), body
    assert connection.client.job(body["job"])["status"] == "COMPLETED"
    assert (
        json.loads(connection.storage.get(body["container"], record_of(body)))["trigger"]["type"]
        == "file_created"
    )
    assert body["job"] in context.told.getvalue()


def test_it_runs_within_the_event_loop_of_nuclios_wrapper(deployed, payload, context, notebook):
    deployed(notebook("print(1)"))

    async def called():
        return call(context, json.dumps(payload()))

    status, body = asyncio.run(called())
    assert (status, body["status"]) == (200, "completed"), body


def record_of(body):
    return body["evidence"].removeprefix(f"libsafe://{body['container']}/") + "record.json"


def test_a_function_that_fails_was_called_all_the_same(deployed, payload, context, notebook):
    deployed(notebook("1 / 0"))
    status, body = call(context, payload())

    assert (status, body["status"], body["error"]["type"]) == (200, "failed", "ZeroDivisionError")
    assert "ZeroDivisionError" in context.told.getvalue()


def test_a_deadline_is_kept(deployed, payload, context, notebook):
    deployed(notebook("import time; time.sleep(600)"), LIBSAFE_NB_TIMEOUT="0.5")

    assert call(context, payload())[1]["status"] == "timeout"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "expected JSON"),
        (b"[]", "expected a JSON object"),
        (None, "expected a JSON object"),
        ({"function_data": {}}, "function_data.container"),
        ({"function_data": {"container": {"id": "99999"}}}, "container 99999"),
    ],
)
def test_a_bad_payload_starts_nothing(body, said, deployed, payload, context, notebook, connection):
    deployed(notebook("1"))
    before = len(list(connection.client.jobs()))
    status, answer = call(context, {**payload(), **body} if isinstance(body, dict) else body)

    assert (status, said in answer["error"]["message"]) == (400, True), answer
    assert len(list(connection.client.jobs())) == before


def test_an_event_that_is_given_again_after_its_job_has_ended_starts_nothing(
    deployed, payload, context, notebook, connection, container
):
    deployed(notebook("1"))
    body = payload()
    body["function_data"]["job"] = {"id": connection.client.create_job(container)["id"]}
    first, second = call(context, body), call(context, body)

    assert (first[0], first[1]["status"], second[0]) == (200, "completed", 400)
    assert "has not ended" in second[1]["error"]["message"]


@pytest.mark.parametrize("configured", [True, False])
def test_a_platform_that_is_away_is_503_and_no_key_is_told(
    configured, deployed, payload, context, notebook, monkeypatch
):
    """Nor one that came with the payload alone, as on Nuclio."""
    monkeypatch.setattr("libsafe_nb.patience.BUDGET", 0.2)
    deployed(notebook("1"))
    body = payload()
    body["api"] = {"url": f"http://127.0.0.1:1/{REAL}", "key_user": REAL}
    if configured:
        monkeypatch.setenv("LIBSAFE_KEY_USER", REAL)
    status, answer = call(context, body)

    assert status == 503
    assert REAL not in json.dumps(answer) + context.told.getvalue()


def test_a_wrong_deployment_never_becomes_ready(tmp_path, deployed, payload, context, notebook, monkeypatch):
    good = notebook("1")
    for path, environ, said in (
        ("", {}, "LIBSAFE_NB_FUNCTION"),
        (tmp_path / "absent.ipynb", {}, "cannot be read"),
        (good, {"LIBSAFE_NB_TIMEOUT": "soon"}, "LIBSAFE_NB_TIMEOUT"),
    ):
        deployed(path, **environ)
        with pytest.raises(errors.UsageError, match=said):
            nuclio.init_context(context)
        status, answer = call(context, payload())
        assert (status, said in answer["error"]["message"]) == (500, True), answer


def test_without_a_context_it_answers_all_the_same(deployed, notebook):
    deployed(notebook("1"))
    answer = nuclio.handler(None, nuclio_sdk.Event(body="{"))

    assert (answer.status_code, answer.content_type) == (400, "application/json")
