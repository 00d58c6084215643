"""A container as the files of a Jupyter server, over its contents API."""

import base64
import concurrent.futures
import json
import re
import subprocess
import sys
import threading
from urllib.parse import quote

import nbformat
import pytest
import requests
from nbformat.v4 import new_code_cell, new_notebook

from libsafe_nb.errors import ObjectNotFound


class Jupyter:
    """One client of the server: a browser has a name of its own."""

    def __init__(self, address, name="tests"):
        self.base, _, rest = address.partition("/lab")
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"token {rest.partition('token=')[2]}"
        self.session.headers["User-Agent"] = name

    def ask(self, method, path="", *, status=200, api="api/contents", body=None, headers=None, **query):
        answer = self.session.request(
            method, f"{self.base}/{api}/{quote(path)}", json=body, params=query, headers=headers, timeout=60
        )
        assert answer.status_code == status, answer.text
        return answer.json() if api.startswith("api") and answer.content[:1] in (b"{", b"[") else answer

    def names(self, path=""):
        return {each["name"]: each["type"] for each in self.ask("GET", path)["content"]}

    def text(self, path, content, *, status=200, **options):
        body = {"type": "file", "format": "text", "content": content}
        return self.ask("PUT", path, body=body, status=status, **options)

    def notebook(self, path, *sources, status=200):
        node = new_notebook(cells=[new_code_cell(each) for each in sources])
        return self.ask("PUT", path, body={"type": "notebook", "content": node}, status=status)


@pytest.fixture
def jupyter(lab_place, request):
    return Jupyter(lab_place[0], quote(request.node.name))


@pytest.fixture
def store(connection, lab_place):
    """The container as any other S3 client sees it."""

    class Store:
        container = lab_place[1]

        def put(self, path, data):
            return connection.storage.put(self.container, path, data)

        def get(self, path):
            return connection.storage.get(self.container, path)

        def delete(self, path):
            connection.storage.delete(self.container, path)

    return Store()


@pytest.fixture
def folder(jupyter, request):
    name = re.sub(r"\W+", "-", request.node.name)
    jupyter.ask("PUT", name, body={"type": "directory"}, status=201)
    return name


def test_what_any_client_stored_is_listed_and_opened(jupyter, store, folder):
    store.put(f"{folder}/deep/er/a.txt", b"here")
    store.put(f"{folder}/b.bin", b"\xff\x00")

    assert jupyter.names(folder) == {"deep": "directory", "b.bin": "file"}
    assert jupyter.names(f"{folder}/deep") == {"er": "directory"}
    assert jupyter.ask("GET", f"{folder}/deep/er/a.txt")["content"] == "here"
    found = jupyter.ask("GET", f"{folder}/b.bin")
    assert (found["format"], base64.b64decode(found["content"])) == ("base64", b"\xff\x00")
    assert jupyter.ask("GET", f"{folder}/deep/er/a.txt", content=0)["content"] is None
    jupyter.ask("GET", f"{folder}/b.bin", format="text", status=400)
    jupyter.ask("GET", f"{folder}/no.txt", status=404)


def test_a_notebook_is_made_saved_and_opened(jupyter, store, folder):
    made = jupyter.ask("POST", folder, body={"type": "notebook"}, status=201)

    jupyter.notebook(made["path"], "1 + 1")

    assert nbformat.reads(store.get(made["path"]).decode(), as_version=4).cells[0].source == "1 + 1"
    assert jupyter.ask("GET", made["path"])["content"]["cells"][0]["source"] == "1 + 1"
    second = jupyter.ask("POST", folder, body={"type": "notebook"}, status=201)
    assert second["name"] != made["name"]


@pytest.mark.parametrize("name", ["ünï çödé.txt", "a{b}%c+&=.txt", "#hash?.txt"])
def test_any_name_can_be_used(jupyter, store, folder, name):
    jupyter.text(f"{folder}/{name}", "x", status=201)

    assert store.get(f"{folder}/{name}") == b"x"
    assert name in jupyter.names(folder)
    jupyter.ask("DELETE", f"{folder}/{name}", status=204)
    assert name not in jupyter.names(folder)


def test_files_and_folders_are_moved(jupyter, store, folder):
    for name in ("in/a.txt", "in/sub/b.txt", "c.txt"):
        store.put(f"{folder}/{name}", name.encode())

    jupyter.ask("PATCH", f"{folder}/in", body={"path": f"{folder}/out"})
    jupyter.ask("PATCH", f"{folder}/c.txt", body={"path": f"{folder}/out/c.txt"})

    assert jupyter.names(folder) == {"out": "directory"}
    assert jupyter.names(f"{folder}/out") == {"a.txt": "file", "sub": "directory", "c.txt": "file"}
    assert store.get(f"{folder}/out/sub/b.txt") == b"in/sub/b.txt"
    jupyter.ask("PATCH", f"{folder}/out/c.txt", body={"path": f"{folder}/out/a.txt"}, status=409)
    jupyter.ask("PATCH", f"{folder}/out", body={"path": f"{folder}/out/in"}, status=400)


def test_files_and_folders_are_copied(jupyter, store, folder):
    store.put(f"{folder}/a.txt", b"a")
    store.put(f"{folder}/sub/b.txt", b"b")

    copy = jupyter.ask("POST", folder, body={"copy_from": f"{folder}/a.txt"}, status=201)
    again = jupyter.ask("POST", folder, body={"copy_from": copy["path"]}, status=201)
    whole = jupyter.ask("POST", folder, body={"copy_from": f"{folder}/sub"}, status=201)

    assert [each["name"] for each in (copy, again, whole)] == ["a-Copy1.txt", "a-Copy2.txt", "sub-Copy1"]
    assert store.get(f"{folder}/a-Copy2.txt") == b"a"
    assert store.get(f"{folder}/sub-Copy1/b.txt") == b"b"


def test_what_is_deleted_is_deleted_softly(jupyter, store, folder, connection):
    store.put(f"{folder}/sub/a.txt", b"1")

    jupyter.ask("DELETE", f"{folder}/sub", status=204)

    assert jupyter.names(folder) == {}
    versions = list(connection.storage.versions(store.container, f"{folder}/sub/a.txt"))
    assert [each.deleted for each in versions] == [True, False]
    with pytest.raises(ObjectNotFound):
        store.get(f"{folder}/sub/a.txt")


def test_checkpoints_are_the_versions(jupyter, store, folder):
    path = f"{folder}/a.txt"
    jupyter.text(path, "one", status=201)
    first = jupyter.ask("POST", f"{path}/checkpoints", status=201)
    jupyter.text(path, "two")
    store.put(path, b"three, by another client")

    found = jupyter.ask("GET", f"{path}/checkpoints")
    assert len(found) == 3
    assert found[0] == first
    jupyter.ask("GET", path)
    jupyter.ask("POST", f"{path}/checkpoints/{first['id']}", status=204)

    assert jupyter.ask("GET", path)["content"] == "one"
    assert len(jupyter.ask("GET", f"{path}/checkpoints")) == 4
    jupyter.ask("DELETE", f"{path}/checkpoints/{first['id']}", status=403)
    jupyter.ask("POST", f"{path}/checkpoints/bm9uZQ", status=404)


def test_a_change_by_somebody_else_is_not_written_over(jupyter, store, folder):
    path = f"{folder}/a.ipynb"
    jupyter.notebook(path, "mine", status=201)
    theirs = nbformat.writes(new_notebook(cells=[new_code_cell("theirs")])).encode()
    store.put(path, theirs)

    said = jupyter.notebook(path, "mine, changed", status=409)["message"]
    jupyter.notebook(path, "mine, changed again", status=409)

    assert store.get(path) == theirs
    [kept] = [name for name in jupyter.names(folder) if "conflict" in name]
    assert kept in said
    assert b"mine, changed again" in store.get(f"{folder}/{kept}")
    # Having seen theirs, it can be written over.
    jupyter.ask("GET", path)
    jupyter.notebook(path, "mine, on top")
    assert b"mine, on top" in store.get(path)


def test_who_was_told_of_the_newer_version_may_decide_to_write_over_it(jupyter, store, folder):
    """JupyterLab asks with `hash=1` before it saves, and shows what it was told."""
    path = f"{folder}/a.txt"
    before = jupyter.text(path, "one", status=201)
    store.put(path, b"two")

    told = jupyter.ask("GET", path, content=0, hash=1)

    assert told["hash"] != before["hash"]
    jupyter.text(path, "three")
    assert store.get(path) == b"three"


def test_if_match_is_honoured(jupyter, store, folder):
    path = f"{folder}/a.txt"
    first = jupyter.text(path, "one", status=201)["hash"]
    jupyter.text(path, "two")

    jupyter.text(path, "three", headers={"If-Match": f'"{first}"'}, status=409)

    assert store.get(path) == b"two"


def test_of_many_who_save_at_once_one_wins_and_none_is_lost(lab_place, store, folder):
    path = f"{folder}/a.txt"
    store.put(path, b"before")
    clients = [Jupyter(lab_place[0], f"browser {number}") for number in range(6)]
    for client in clients:
        client.ask("GET", path)
    barrier = threading.Barrier(len(clients))

    def save(number):
        barrier.wait()
        body = {"type": "file", "format": "text", "content": f"by {number}"}
        url = f"{clients[number].base}/api/contents/{path}"
        return clients[number].session.put(url, json=body, timeout=60).status_code

    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        codes = list(pool.map(save, range(len(clients))))

    assert sorted(codes) == [200, 409, 409, 409, 409, 409]
    kept = {store.get(f"{folder}/{name}") for name in clients[0].names(folder)}
    assert kept == {f"by {number}".encode() for number in range(len(clients))}


def test_what_was_deleted_meanwhile_is_told_and_kept(jupyter, store, folder):
    path = f"{folder}/a.txt"
    jupyter.text(path, "one", status=201)
    store.delete(path)

    jupyter.text(path, "two", status=409)

    assert [store.get(f"{folder}/{name}") for name in jupyter.names(folder)] == [b"two"]


def test_evidence_is_read_only(jupyter, store):
    store.put("provenance/f/x/report.html", b"<p>seen</p>")

    found = jupyter.ask("GET", "provenance/f/x")
    assert not found["writable"]
    assert not found["content"][0]["writable"]
    path = "provenance/f/x/report.html"
    said = jupyter.text(path, "changed", status=403)["message"]
    jupyter.ask("DELETE", "provenance", status=403)
    jupyter.ask("PATCH", path, body={"path": "mine.html"}, status=403)
    jupyter.ask("POST", "provenance/f", body={"type": "file"}, status=403)
    copy = jupyter.ask("POST", "", body={"copy_from": path}, status=201)

    assert "never changed" in said
    assert store.get(path) == b"<p>seen</p>"
    assert store.get(copy["path"]) == b"<p>seen</p>"


def test_a_notebook_with_a_key_in_it_is_not_saved(jupyter, store, folder, platform):
    path = f"{folder}/a.ipynb"

    said = jupyter.notebook(path, f"key = '{platform.settings.key_user}'", status=400)["message"]

    assert "LSN001" in said
    assert platform.settings.key_user not in said
    assert jupyter.names(folder) == {}


@pytest.mark.parametrize("kind", ["a text", "a script in cells", "an old notebook", "a notebook in chunks"])
def test_no_other_file_gets_in_with_a_key_in_it(kind, jupyter, folder, platform):
    key = platform.settings.key_user
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}}
    old["worksheets"] = [{"cells": [{"cell_type": "code", "input": f"key = '{key}'", "language": "python"}]}]
    name, text, more = {
        "a text": ("a.env", f"KEY={key}\n", {}),
        "a script in cells": ("a.py", f"# %%\nkey = '{key}'\n", {}),
        "an old notebook": ("a.ipynb", json.dumps(old), {}),
        "a notebook in chunks": (
            "b.ipynb",
            nbformat.writes(new_notebook(cells=[new_code_cell(f"k = '{key}'")])),
            {"chunk": -1},
        ),
    }[kind]
    if more:
        half = len(text) // 2
        body = {"type": "file", "format": "text", "content": text[:half], "chunk": 1}
        jupyter.ask("PUT", f"{folder}/{name}", body=body, status=201)
        text = text[half:]

    said = jupyter.ask(
        "PUT",
        f"{folder}/{name}",
        body={"type": "file", "format": "text", "content": text, **more},
        status=400,
    )

    assert "Nothing was saved" in said["message"]
    assert key not in said["message"]
    assert jupyter.names(folder) == {}


def test_a_file_that_came_while_a_large_one_was_sent_is_not_written_over(jupyter, store, folder):
    path, body = f"{folder}/a.bin", {"type": "file", "format": "text", "content": "mine "}
    jupyter.ask("PUT", path, body={**body, "chunk": 1}, status=201)
    store.put(path, b"theirs")

    jupyter.ask("PUT", path, body={**body, "chunk": -1}, status=409)

    assert {store.get(f"{folder}/{name}") for name in jupyter.names(folder)} == {b"theirs", b"mine mine "}


def test_a_folder_is_moved_with_the_empty_ones_in_it_and_stays_when_its_last_file_goes(
    jupyter, store, folder
):
    jupyter.ask("PUT", f"{folder}/in", body={"type": "directory"}, status=201)
    jupyter.ask("PUT", f"{folder}/in/empty", body={"type": "directory"}, status=201)
    store.put(f"{folder}/in/a.txt", b"a")

    jupyter.ask("PATCH", f"{folder}/in", body={"path": f"{folder}/out"})
    assert jupyter.names(f"{folder}/out") == {"empty": "directory", "a.txt": "file"}
    assert jupyter.names(folder) == {"out": "directory"}
    store.put(f"{folder}/sole/b.txt", b"b")
    jupyter.ask("DELETE", f"{folder}/sole/b.txt", status=204)

    assert jupyter.names(f"{folder}/sole") == {}


def test_a_model_may_say_which_version_it_replaces(jupyter, store, folder):
    path = f"{folder}/a.txt"
    first = jupyter.text(path, "one", status=201)
    store.put(path, b"two")
    jupyter.ask("GET", path)

    body = {**first, "content": "three", "format": "text"}
    jupyter.ask("PUT", path, body=body, status=409)

    assert store.get(path) == b"two"


def test_large_files_come_in_chunks_and_go_in_a_stream(jupyter, store, folder):
    path, data = f"{folder}/large.bin", bytes(range(256)) * 4096 * 20
    for number, start in enumerate(range(0, len(data), 4 << 20), 1):
        part = data[start : start + (4 << 20)]
        last = start + len(part) == len(data)
        body = {"type": "file", "format": "base64", "content": base64.b64encode(part).decode()}
        jupyter.ask("PUT", path, body={**body, "chunk": -1 if last else number}, status=201)

    assert store.get(path) == data
    assert jupyter.ask("GET", path, api="files").content == data
    part = jupyter.ask("GET", path, api="files", headers={"Range": "bytes=5-9"}, status=206)
    assert (part.content, part.headers["Content-Range"]) == (data[5:10], f"bytes 5-9/{len(data)}")
    assert (
        jupyter.ask("GET", path, api="files", headers={"Range": "bytes=-3"}, status=206).content == data[-3:]
    )
    jupyter.ask("GET", path, api="files", headers={"Range": f"bytes={len(data)}-"}, status=416)
    saved = jupyter.ask("GET", path, api="files", download=1)
    assert "attachment" in saved.headers["Content-Disposition"]
    assert "sandbox" in saved.headers["Content-Security-Policy"]


def test_chunks_out_of_their_order_are_refused(jupyter, folder):
    body = {"type": "file", "format": "base64", "content": "QQ=="}
    jupyter.ask("PUT", f"{folder}/a.bin", body={**body, "chunk": 1}, status=201)

    jupyter.ask("PUT", f"{folder}/a.bin", body={**body, "chunk": 3}, status=400)
    jupyter.ask("PUT", f"{folder}/b.bin", body={**body, "chunk": -1}, status=400)

    assert jupyter.names(folder) == {}


@pytest.mark.parametrize("path", ["../outside.txt", "a/../../b.txt", "%2e%2e/c.txt"])
def test_no_path_leads_out_of_the_container(jupyter, store, path):
    body = {"type": "file", "format": "text", "content": "x"}
    answer = jupyter.session.put(f"{jupyter.base}/api/contents/{path}", json=body, timeout=60)

    assert answer.status_code in (400, 404, 405), answer.text


def test_without_the_token_nothing_is_told(lab_place):
    base = lab_place[0].partition("/lab")[0]

    assert requests.get(f"{base}/api/contents/", timeout=60).status_code == 403
    assert requests.get(f"{base}/libsafe/templates", timeout=60, allow_redirects=False).status_code in (
        302,
        403,
    )


def test_the_container_itself_is_not_copied(jupyter, store):
    store.put("enance/chain/00000007.json", b"{}")

    jupyter.ask("POST", "prov", body={"copy_from": "/"}, status=400)
    jupyter.ask("POST", body={"copy_from": "/"}, status=400)

    assert "prov" not in "".join(name for name in jupyter.names() if name != "provenance")


def test_however_many_make_a_new_file_at_once_each_gets_its_own(lab_place, store, folder):
    clients = [Jupyter(lab_place[0], f"maker {number}") for number in range(8)]

    def make(client):
        return client.ask("POST", folder, body={"type": "notebook"}, status=201)["path"]

    def begin(client):
        body = {"template": "blank", "title": "Same", "folder": folder}
        return client.session.post(f"{client.base}/libsafe/new", json=body, timeout=60).json()["path"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = [*pool.map(make, clients), *pool.map(begin, clients)]

    assert len(set(made)) == 16
    assert set(made) == {f"{folder}/{name}" for name in clients[0].names(folder)}


@pytest.mark.parametrize("name", ["leak.txt", "leak.py", "leak.ipynb"])
def test_no_key_gets_in_with_chunks(jupyter, folder, platform, name):
    text = f"# %%\nkey = '{platform.settings.s3.secret_key}'\n".encode()
    body = {"type": "file", "format": "base64"}
    halves = [base64.b64encode(each).decode() for each in (text[:20], text[20:])]
    jupyter.ask("PUT", f"{folder}/{name}", body={**body, "content": halves[0], "chunk": 1}, status=201)

    jupyter.ask("PUT", f"{folder}/{name}", body={**body, "content": halves[1], "chunk": -1}, status=400)

    assert jupyter.names(folder) == {}


def test_no_key_is_a_name(jupyter, folder, platform):
    key = platform.settings.key_user
    body = {"type": "file", "format": "text", "content": "x"}

    jupyter.ask("PUT", f"{folder}/{key}.txt", body=body, status=400)
    jupyter.ask("PUT", f"{folder}/{key}", body={"type": "directory"}, status=400)

    assert jupyter.names(folder) == {}


def test_a_file_and_a_folder_of_one_name_are_left_alone(jupyter, store, folder):
    store.put(f"{folder}/both", b"file")
    store.put(f"{folder}/both/y.txt", b"in the folder")

    jupyter.ask("DELETE", f"{folder}/both", status=409)
    jupyter.ask("PATCH", f"{folder}/both", body={"path": f"{folder}/other"}, status=409)

    assert store.get(f"{folder}/both") == b"file"
    assert store.get(f"{folder}/both/y.txt") == b"in the folder"


def test_an_old_version_does_not_replace_one_that_was_not_seen(jupyter, store, folder):
    path = f"{folder}/a.txt"
    jupyter.ask("PUT", path, body={"type": "file", "format": "text", "content": "one"}, status=201)
    first = jupyter.ask("POST", f"{path}/checkpoints", status=201)
    jupyter.ask("GET", path)
    store.put(path, b"theirs")

    jupyter.ask("POST", f"{path}/checkpoints/{first['id']}", status=409)

    assert store.get(path) == b"theirs"


CUT_OFF = """
import asyncio, sys, anyio.to_thread
from libsafe_nb.jupyter import lab
loop = asyncio.new_event_loop()
async def request():
    await anyio.to_thread.run_sync(int)
    loop.stop()
    await asyncio.Event().wait()
task = loop.create_task(request())
loop.run_forever()
if sys.argv[1:] == ["ends"]:
    lab.end_idle_threads()
print("served")
"""


def test_a_request_that_the_end_of_the_server_cuts_off_leaves_no_thread_to_wait_for():
    """Jupyter's own end waited for ever, once in some dozens of ends."""
    ending = [sys.executable, "-c", CUT_OFF]

    assert (
        subprocess.run([*ending, "ends"], capture_output=True, timeout=60, check=True).stdout == b"served\n"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(ending, capture_output=True, timeout=3)
