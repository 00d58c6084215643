"""The Lab over a container of ten thousand files, over large files, and with a key that is revoked while it runs."""

import base64
import concurrent.futures
import itertools
import os
import threading
import time
from pathlib import Path

import pytest
from environs import variables
from labs import lab
from test_lab_contents import Jupyter

from libsafe_nb.client import Client
from libsafe_nb.settings import S3Settings

FILES = 10_000
FLAT = 4_000
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def archive(connection):
    """A container of ten thousand real objects without one folder's marker: one folder of 4,000, and 300 of 20."""
    container = connection.client.create_container("ten thousand")["id"]
    flat = (f"scans/{number:05d}.tif" for number in range(FLAT))
    deep = (
        f"letters/{number // 400:02d}/{number // 20:04d}/{number:05d}.txt" for number in range(FILES - FLAT)
    )
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in pool.map(
            lambda path: connection.storage.put(container, path, b"x"), itertools.chain(flat, deep)
        ):
            pass
    return container


@pytest.fixture(scope="module")
def jupyter(archive, platform, tmp_path_factory):
    with lab(archive, variables(platform.settings), tmp_path_factory.mktemp("lab")) as address:
        yield Jupyter(address)


def timed(jupyter, path=""):
    """Names in a folder; seconds until they were there, and those of them that the Lab computed."""
    server = _server_of(jupyter)
    began, computed = time.monotonic(), _computed(server)
    names = jupyter.names(path)
    return names, time.monotonic() - began, _computed(server) - computed


@pytest.mark.slow
def test_ten_thousand_files_are_listed_opened_moved_copied_and_deleted(jupyter, archive, connection):
    # The very first request of this server.
    top, first, computed = timed(jupyter)
    flat, large, computed_too = timed(jupyter, "scans")
    deep = jupyter.names("letters/03/0061")
    print(
        f"first listing {first:.2f} s ({computed:.2f} s computing), of {len(flat)} files {large:.2f} s ({computed_too:.2f} s)"
    )

    assert top == {"letters": "directory", "scans": "directory"}
    assert (len(flat), len(deep)) == (FLAT, 20)
    # Of a machine that does nothing else these are nearly all of the time.
    assert computed < 2
    assert computed_too < 2
    path = "letters/03/0061/01221.txt"
    assert jupyter.ask("GET", path)["content"] == "x"
    jupyter.text(path, "changed")
    jupyter.ask("PATCH", path, body={"path": "letters/moved.txt"})
    jupyter.ask("POST", "letters", body={"copy_from": "letters/moved.txt"}, status=201)
    jupyter.ask("PATCH", "letters/04", body={"path": "letters/four"})
    jupyter.ask("POST", "", body={"copy_from": "letters/05/0100"}, status=201)
    jupyter.ask("DELETE", "letters/06", status=204)
    made = jupyter.ask("POST", "scans", body={"type": "notebook"}, status=201)
    checkpoint = jupyter.ask("POST", f"{made['path']}/checkpoints", status=201)
    jupyter.ask("POST", f"{made['path']}/checkpoints/{checkpoint['id']}", status=204)

    below = [each.path for each in connection.storage.list(archive)]
    assert sum(each.startswith("letters/four/") for each in below) == 400
    assert not [each for each in below if each.startswith(("letters/04/", "letters/06/"))]
    # A file moved, one copied; a folder of 400 moved, one of 20 copied, one of 400 deleted; a notebook made.
    assert len([each for each in below if not each.endswith("/")]) == FILES + 1 + 20 - 400 + 1


@pytest.mark.slow
def test_operations_pass_while_others_change_the_container(jupyter, archive, connection):
    """Another client writes, replaces and deletes all the time: what the Lab answers is 200s, 404s and 409s."""
    stop, storage = threading.Event(), connection.storage

    def disturb(number):
        for turn in itertools.count():
            if stop.is_set():
                return
            storage.put(archive, f"busy/{number}/{turn % 7}.txt", f"{number} {turn}".encode())
            if turn % 3 == 0:
                storage.delete(archive, f"busy/{number}/{turn % 5}.txt")

    codes = set()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        others = [pool.submit(disturb, number) for number in range(3)]
        try:
            for turn in range(60):
                path = f"busy/{turn % 3}/{turn % 7}.txt"
                body = {"type": "file", "format": "text", "content": f"lab {turn}"}
                for method, where, given in (
                    ("GET", path, None),
                    ("PUT", path, body),
                    ("PATCH", path, {"path": f"taken/{turn}.txt"}),
                    ("POST", "taken", {"copy_from": path}),
                    ("GET", f"busy/{turn % 3}", None),
                    ("DELETE", f"busy/{turn % 3}/{(turn + 1) % 7}.txt", None),
                ):
                    url = f"{jupyter.base}/api/contents/{where}"
                    codes.add(jupyter.session.request(method, url, json=given, timeout=60).status_code)
        finally:
            stop.set()
        for each in others:
            each.result()

    assert codes <= {200, 201, 204, 404, 409}
    assert {200, 409} <= codes
    # Nothing that the Lab was told is saved, and nothing that others wrote, is gone: each is a version.
    texts = {
        storage.get(archive, each.path, version_id=each.version_id)
        for prefix in ("busy/", "taken/")
        for each in storage.versions(archive, prefix)
        if not each.deleted and not each.path.endswith("/")
    }
    assert {f"lab {turn}".encode() for turn in range(60)} <= texts


@pytest.mark.slow
def test_a_quarter_gigabyte_goes_up_and_down_in_bounded_memory(jupyter, archive, connection):
    server = _server_of(jupyter)
    size, block = 256 * MIB, bytes(range(256)) * 4096
    chunk = {"type": "file", "format": "base64", "content": base64.b64encode(block).decode()}
    before = _peak(server)
    for number in range(1, size // MIB + 1):
        last = number == size // MIB
        jupyter.ask("PUT", "large.bin", body={**chunk, "chunk": -1 if last else number}, status=201)
    up = _peak(server)
    found = 0
    with jupyter.session.get(f"{jupyter.base}/files/large.bin", stream=True, timeout=60) as answer:
        for part in answer.iter_content(MIB):
            found += len(part)
    down = _peak(server)
    print(f"before {before:.0f} MiB, after sending {up:.0f} MiB, after reading {down:.0f} MiB")

    assert found == size == connection.storage.head(archive, "large.bin").size
    assert up - before < 150
    assert down - before < 200


def test_a_revoked_key_is_noticed_while_the_lab_runs(platform, connection, tmp_path):
    """Within seconds, in words that say what to do; the storage itself still knows the credentials."""
    root = Client.of(platform.settings, root=True)
    user = root.create_user("leaving")
    mine = Client(platform.settings.url, user["key"])
    container = mine.create_container("theirs")["id"]
    s3 = S3Settings(**user["s3"])
    environ = variables(platform.settings) | {
        "LIBSAFE_KEY_USER": user["key"],
        "LIBSAFE_S3_ACCESS_KEY": s3.access_key,
        "LIBSAFE_S3_SECRET_KEY": s3.secret_key,
    }
    with lab(container, environ, tmp_path) as address:
        jupyter = Jupyter(address)
        jupyter.text("a.txt", "x", status=201)
        root.revoke_key(user["id"])
        for _ in range(100):
            answer = jupyter.session.get(f"{jupyter.base}/api/contents/", timeout=60)
            if answer.status_code != 200:
                break
            time.sleep(0.1)

        assert answer.status_code == 403
        assert "LIBSAFE_KEY_USER" in answer.json()["message"]
        assert user["key"] not in answer.text
        for method, path in (
            ("GET", "a.txt"),
            ("DELETE", "a.txt"),
            ("POST", ""),
            ("GET", "a.txt/checkpoints"),
        ):
            jupyter.ask(method, path, status=403)
        jupyter.ask("GET", "a.txt", api="files", status=403)
        jupyter.text("a.txt", "y", status=403)
    root.close()
    mine.close()


def _server_of(jupyter):
    """The process that listens on the Lab's port."""
    port = int(jupyter.base.rpartition(":")[2])
    inode = next(
        words[9]
        for words in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if words[1] == f"0100007F:{port:04X}" and words[3] == "0A"
    )
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(each.readlink()) == f"socket:[{inode}]" for each in descriptors.iterdir()):
                return descriptors.parent
        except OSError:
            continue
    raise AssertionError(f"nobody listens on {port}")


def _computed(process):
    """Processor seconds of a process."""
    words = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _peak(process):
    """Most memory that a process ever had, in MiB."""
    text = (process / "status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
