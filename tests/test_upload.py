"""Files go into the container once, and no notebook with a key in it does."""

import nbformat
import pytest
from test_run import REAL, command

from libsafe_nb import errors
from libsafe_nb.upload import upload


def test_files_are_stored_once(tmp_path, platform, connection, container, notebook):
    path = notebook("print('hello')")
    (tmp_path / "é.txt").write_bytes(b"bytes")
    first = upload([path, tmp_path / "é.txt"], container=container, folder="a/b", settings=platform.settings)
    again = upload([path], container=container, folder="/a/b/", settings=platform.settings)

    assert [each.path for each in first] == ["a/b/f.ipynb", "a/b/é.txt"]
    assert ([each.created for each in first], again[0].created) == ([True, True], False)
    assert connection.storage.get(container, "/a/b/f.ipynb") == path.read_bytes()
    assert len(list(connection.storage.versions(container, "a/b/f.ipynb"))) == 1


@pytest.mark.parametrize("place", ["source", "output", "metadata"])
def test_a_notebook_with_a_key_is_refused_and_nothing_is_sent(
    place, tmp_path, platform, connection, container, notebook
):
    path = notebook("1")
    node = nbformat.read(str(path), 4)
    if place == "source":
        node.cells[1].source = f"api_key = '{REAL}'"
    elif place == "output":
        node.cells[1].outputs = [nbformat.v4.new_output("stream", text=f"api_key = '{REAL}'\n")]
    else:
        node.metadata["note"] = f"api_key = '{REAL}'"
    nbformat.write(node, str(path))
    (tmp_path / "other.txt").write_text("other")
    with pytest.raises(errors.NotebookError, match="LSN00") as raised:
        upload([tmp_path / "other.txt", path], container=container, settings=platform.settings)

    assert REAL not in str(raised.value)
    assert list(connection.storage.list(container)) == []


def test_the_command(tmp_path, platform, container, notebook):
    done = command(platform, "upload", str(notebook("1")), "--container", container)
    refused = command(platform, "upload", str(tmp_path / "absent"), "--container", container)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"libsafe://{container}/f.ipynb  stored")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_a_key_that_a_server_quotes_does_not_reach_the_terminal(platform, notebook, tmp_path):
    """The answer of a server that repeats the key it was given."""
    import json

    from faults import ScriptedServer

    body = json.dumps({"success": False, "msg": f"no such key: {platform.settings.key_user}"}).encode()
    with ScriptedServer((401, {"Content-Type": "application/json"}, body)) as server:
        for debug in ([], ["--debug"]):
            done = command(platform, *debug, "run", str(notebook("1")), LIBSAFE_URL=server.url)
            assert done.returncode == 3
            assert platform.settings.key_user not in done.stderr + done.stdout
            assert "[redacted:key_user]" in done.stderr
