"""An author's own secrets: supplied apart, filled in within the kernel, and kept out of all that is stored."""

import dataclasses
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import libsafe_nb
from libsafe_nb import errors, nuclio, supplied
from libsafe_nb.compat.session import secrets_of

TOKEN = "tok-9fK2mQ7xW4vZ8bN1"
PARAMETERS = 'json_sample = {"function_params": {}}\ntoken: "Secret" = ""\ncount: int = 1'
CELL = (
    "print(token, len(token), json_sample['function_params']['token'] == token)\n"
    "from libnova.com.Api import File\n"
    "import os; print([name for name in os.environ if 'SECRET' in name])"
)


@pytest.fixture
def settings(platform, tmp_path):
    return dataclasses.replace(platform.settings, home=tmp_path / "state")


@pytest.fixture
def secretive(tmp_path):
    """A notebook with a secret parameter."""

    def secretive(*cells, parameters=PARAMETERS):
        made = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)]
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=made, metadata={"kernelspec": spec}), tmp_path / "s.ipynb")
        return tmp_path / "s.ipynb"

    return secretive


def everything(connection, container, done):
    stored = [connection.storage.get(container, each.path) for each in connection.storage.list(container)]
    job = connection.client.job(done.job), list(connection.client.messages(done.job)), done.to_json()
    return b"\n".join([*stored, json.dumps(job).encode()])


def printed(connection, container, done):
    node = json.loads(
        connection.storage.get(
            container, done.evidence.removeprefix(f"libsafe://{container}/") + "executed.ipynb"
        )
    )
    return "".join(node["cells"][-1]["outputs"][0]["text"])


def by_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBSAFE_SECRET_TOKEN", TOKEN)


def by_file(monkeypatch, tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv("LIBSAFE_SECRET_TOKEN_FILE", str(tmp_path / "token"))


def by_keyring(monkeypatch, tmp_path):
    keyring = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend

    class InMemory(KeyringBackend):
        priority = -1  # never chosen but by name
        kept = {("libsafe-nb", "token"): TOKEN}  # noqa: RUF012 - a test's

        def get_password(self, service, username):
            return self.kept.get((service, username))

        def set_password(self, service, username, password):
            raise NotImplementedError

    before = keyring.get_keyring()
    keyring.set_keyring(InMemory())
    return lambda: keyring.set_keyring(before)


@pytest.mark.parametrize("supply", [by_environment, by_file, by_keyring])
def test_a_secret_reaches_the_kernel_and_nothing_else(
    supply, secretive, settings, connection, container, monkeypatch, tmp_path
):
    undo = supply(monkeypatch, tmp_path)
    try:
        done = libsafe_nb.run(None, secretive(CELL), container=container, settings=settings)
    finally:
        if undo:
            undo()

    assert done.status == "completed", done.error
    assert printed(connection, container, done) == f"[redacted:token] {len(TOKEN)} True\n[]\n"
    assert TOKEN.encode() not in everything(connection, container, done)
    record = json.loads(
        connection.storage.get(
            container, done.evidence.removeprefix(f"libsafe://{container}/") + "record.json"
        )
    )
    assert {"name": "token", "via": "kernel"} in record["secrets"]
    assert record["payload"]["function_params"]["token"] == {"$secret": "token"}


@pytest.mark.parametrize("given", [TOKEN, {"$secret": "token"}], ids=["value", "placeholder"])
def test_the_payload_may_bring_the_value_or_the_placeholder_of_a_record(
    secretive, settings, connection, container, monkeypatch, given
):
    if given != TOKEN:
        monkeypatch.setenv("LIBSAFE_SECRET_TOKEN", TOKEN)
    data = {"function_data": {"container": {"id": container}}, "function_params": {"token": given}}
    done = libsafe_nb.run(data, secretive(CELL), settings=settings)

    assert done.status == "completed", done.error
    assert printed(connection, container, done) == f"[redacted:token] {len(TOKEN)} True\n[]\n"
    assert TOKEN.encode() not in everything(connection, container, done)


HANDLER = "def handler(context, event):\n    return 1\n"


@pytest.mark.parametrize(
    "params",
    [
        {"undeclared": {"$secret": "other"}},
        {"undeclared": {"$secret": "serve_key"}},
        {"undeclared": {"$secret": "undeclared"}},
        {"token": {"$secret": "other"}},
        {"token": {"$secret": "token", "more": 1}},
        {"token": {"$secret": 7}},
        {"count": {"$secret": "count"}},
        {"undeclared": {"deep": [1, {"deeper": {"$secret": "other"}}]}},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("kind", ["notebook", "handler"])
@pytest.mark.parametrize("way", ["payload", "params"])
def test_nobody_names_a_secret_of_the_machine(
    secretive, settings, connection, container, monkeypatch, tmp_path, params, kind, way
):
    """Whoever may call a function chooses neither which secret it gets nor that an undeclared one is filled in."""
    for name in ("TOKEN", "OTHER", "SERVE_KEY", "UNDECLARED", "COUNT"):
        monkeypatch.setenv(f"LIBSAFE_SECRET_{name}", TOKEN[::-1])
    path = secretive(CELL) if kind == "notebook" else tmp_path / "h.py"
    if kind == "handler":
        path.write_text(HANDLER)
    data = {"function_data": {"container": {"id": container}}}
    given = {"params": params} if way == "params" else {}
    payload = data if way == "params" else {**data, "function_params": params}
    with pytest.raises(errors.ParameterError, match="declares as Secret") as raised:
        libsafe_nb.run(payload, path, settings=settings, **given)

    assert raised.value.exit_code == 2
    assert list(connection.client.jobs(container=container)) == []


def test_nor_does_who_calls_over_http(secretive, settings, container, monkeypatch):
    """`serve`, too, answers by `nuclio.answer`."""
    for name in ("TOKEN", "SERVE_KEY"):
        monkeypatch.setenv(f"LIBSAFE_SECRET_{name}", TOKEN)
    data = {
        "function_data": {"container": {"id": container}},
        "function_params": {"x": {"$secret": "serve_key"}},
    }
    status, body = nuclio.answer(json.dumps(data), secretive(CELL), settings=settings)

    assert (status, body["error"]["type"]) == (400, "ParameterError")


@pytest.mark.parametrize("name", ["serve_key", "key_user", "SERVE_KEY", "serve_key_file"])
def test_a_key_of_our_own_is_no_parameter(secretive, settings, connection, container, monkeypatch, name):
    monkeypatch.setenv(f"LIBSAFE_SECRET_{name.upper()}", TOKEN)
    path = secretive("1", parameters=f"json_sample = {{}}\n{name}: 'Secret' = ''")
    with pytest.raises(errors.ParameterError, match="a key of libsafe-nb"):
        libsafe_nb.run(None, path, container=container, settings=settings)
    assert list(connection.client.jobs(container=container)) == []


def test_a_placeholder_in_the_notebook_itself_is_none_either(secretive, settings, container, monkeypatch):
    monkeypatch.setenv("LIBSAFE_SECRET_OTHER", TOKEN)
    path = secretive("1", parameters='json_sample = {"function_params": {"x": {"$secret": "other"}}}')
    with pytest.raises(errors.ParameterError, match="declares as Secret"):
        libsafe_nb.run(None, path, container=container, settings=settings)


def test_a_pasted_default_of_a_secret_is_taken_out(secretive, settings, connection, container, monkeypatch):
    monkeypatch.setenv("LIBSAFE_SECRET_TOKEN", TOKEN)
    pasted = PARAMETERS.replace('""', f'"{TOKEN[::-1]}"')
    done = libsafe_nb.run(None, secretive(CELL, parameters=pasted), container=container, settings=settings)

    assert done.status == "completed"
    assert TOKEN[::-1].encode() not in everything(connection, container, done)


def test_a_secret_without_a_value_starts_nothing(secretive, settings, connection, container):
    with pytest.raises(errors.ParameterError, match="LIBSAFE_SECRET_TOKEN"):
        libsafe_nb.run(None, secretive(CELL), container=container, settings=settings)
    assert list(connection.client.jobs(container=container)) == []


def test_a_secret_is_not_taken_from_an_argument(secretive, settings, container, monkeypatch):
    monkeypatch.setenv("LIBSAFE_SECRET_TOKEN", TOKEN)
    with pytest.raises(errors.ParameterError, match="not taken from an argument") as raised:
        libsafe_nb.run(
            None, secretive(CELL), container=container, settings=settings, params={"token": "x" * 20}
        )
    assert "xxx" not in str(raised.value)


def test_a_file_that_others_can_read_is_refused(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(errors.SettingsError, match="chmod 600"):
        supplied.secret("token", {"LIBSAFE_SECRET_TOKEN_FILE": str(tmp_path / "token")})
    with pytest.raises(errors.SettingsError, match="cannot be read"):
        supplied.secret("token", {"LIBSAFE_SECRET_TOKEN_FILE": str(tmp_path / "absent")})


@pytest.mark.parametrize("value", ["short", "aaaaaaaaaaaaaaaa", "12345678901"])
def test_a_weak_value_is_refused_untold(value):
    with pytest.raises(errors.SettingsError) as raised:
        supplied.secret("token", {"LIBSAFE_SECRET_TOKEN": value})
    assert value not in str(raised.value)


def test_a_file_that_the_function_writes_is_searched_for_it_too(
    secretive, settings, connection, container, monkeypatch
):
    monkeypatch.setenv("LIBSAFE_SECRET_TOKEN", TOKEN)
    cell = (
        "import json\nfrom libnova.com.Api import File\n"
        "File.write(json_sample['function_data']['container']['id'], '/out.txt', 'it is ' + token)"
    )
    done = libsafe_nb.run(None, secretive(cell), container=container, settings=settings)

    assert done.status == "failed"
    assert TOKEN not in str(done.error)
    assert not connection.storage.exists(container, "/out.txt")


def test_what_is_no_key_is_none():
    assert [each.name for each in secrets_of({"a": TOKEN, "b": "short", "c": None})] == ["a"]
