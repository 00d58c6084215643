"""Start, join, crash, recovery and stop of the local platform, with real processes."""

import contextlib
import itertools
import json
import platform as machine
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from libsafe_nb import local
from libsafe_nb.errors import LocalPlatformError
from libsafe_nb.local import keeper
from libsafe_nb.local.root import Root, live_process, read_json
from libsafe_nb.local.weed import PORT_NAMES, WeedPorts
from libsafe_nb.processes import ProcessId
from libsafe_nb.settings import from_platform_file

from .conftest import Rest, as_dict, eventually, s3_client


@contextlib.contextmanager
def clients(settings):
    rest, s3 = Rest(settings.url, settings.key_user), s3_client(as_dict(settings.s3))
    try:
        yield rest, s3
    finally:
        rest.close()
        s3.close()


def weed_of(root):
    found = read_json(Root(root).s3_side).get("weed", {})
    return ProcessId(found["pid"], found["started"], found["boot"])


def sockets(root):
    """The S3 server's Unix sockets by file, not by name alone: a port set free is soon another server's, with a socket."""
    named = WeedPorts(tuple(read_json(Root(root).s3_side)["weed"]["ports"])).sockets()
    return {(path, path.stat().st_ino) for path in named if path.exists()}


def kill(process):
    assert process.signal(signal.SIGKILL)
    eventually(lambda: not process.alive)


@pytest.fixture
def root(tmp_path):
    """A root on which nothing is left running, whatever the test did."""
    yield tmp_path / "root"
    local.stop(tmp_path / "root")


def test_starting_serves_both_sides_and_stopping_leaves_nothing(root):
    with local.serve(root) as platform, clients(platform.settings) as (rest, s3):
        s3.put_object(Bucket="libsafe", Key="1/a.txt", Body=b"hello")
        assert rest.file("1", "a.txt")["size"] == 5
        processes = [Root(root).running(), Root(root).s3_side_running(), weed_of(root)]
        assert all(process.alive for process in processes)
        left = sockets(root)
        assert left

    assert not any(process.alive for process in processes)
    assert not (root / "platform.json").exists()
    assert not left & sockets(root)


def test_secrets_rest_in_private_files_only(root):
    with local.serve(root) as platform:
        settings = platform.settings
        for name in ("platform.json", "s3.json", "s3/security.toml", "platform.sqlite3"):
            assert (root / name).stat().st_mode & 0o077 == 0
        assert root.stat().st_mode & 0o077 == 0
        secrets = [settings.key_user, settings.key_root, settings.s3.secret_key]
        with contextlib.closing(Rest(platform.url, settings.key_root)) as root_rest:
            headers = {"Idempotency-Key": "once"}
            made = [root_rest.ok("POST", "/user", json={"name": "n"}, headers=headers) for _ in range(2)]
        assert made[0] == made[1]
        secrets += [made[0]["key"], made[0]["s3"]["secret_key"]]
        command_lines = [
            Path(f"/proc/{process.pid}/{name}").read_text()
            for name in ("cmdline", "environ")
            for process in (Root(root).running(), Root(root).s3_side_running(), weed_of(root))
        ]
        holding = {
            secret: {
                path.name
                for path in root.rglob("*")
                if path.is_file() and secret.encode() in path.read_bytes()
            }
            for secret in secrets
        }

    assert not [secret for secret in secrets for line in command_lines if secret in line]
    # weed keeps its own copy of the credentials nowhere else.
    assert [holding[secret] for secret in secrets] == [
        {"platform.json", "s3.json"},
        {"platform.json", "s3.json"},
        {"platform.json", "s3.json"},
        set(),
        {"s3.json"},
    ]


def test_a_restart_keeps_everything(root):
    with local.serve(root) as platform, clients(platform.settings) as (rest, s3):
        first = platform.settings
        s3.put_object(Bucket="libsafe", Key="1/a.txt", Body=b"hello")
        file = rest.file("1", "a.txt")
        rest.ok("PUT", f"/file/{file['id']}/hash", json={"algorithm": "md5", "value": "a" * 32})
        job = rest.job("1")

    with local.serve(root) as platform, clients(platform.settings) as (rest, s3):
        again = platform.settings
        assert rest.file("1", "a.txt")["hashes"] == {"md5": "a" * 32}
        assert rest.ok("GET", f"/job/{job}")["status"] == "QUEUED"
        assert s3.get_object(Bucket="libsafe", Key="1/a.txt")["Body"].read() == b"hello"

    keys = [(each.key_user, each.key_root, each.s3.access_key, each.s3.secret_key) for each in (first, again)]
    assert keys[0] == keys[1]


def test_keys_of_the_environment_are_taken_at_the_first_start(root, monkeypatch):
    monkeypatch.setenv("LIBSAFE_KEY_USER", "a-user-key-of-my-own")
    monkeypatch.setenv("LIBSAFE_KEY_ROOT", "a-root-key-of-my-own")
    with local.serve(root) as platform:
        assert platform.settings.key_user == "a-user-key-of-my-own"
    monkeypatch.setenv("LIBSAFE_KEY_USER", "another")
    with local.serve(root) as platform, clients(platform.settings) as (rest, _):
        assert platform.settings.key_user == "a-user-key-of-my-own"
        assert rest.ok("GET", "/user/me")["id"] == "1"


def test_nothing_in_the_folder_of_whoever_starts_it_stands_in_for_a_module(root, tmp_path, monkeypatch):
    for name in ("libsafe_nb", "asyncio"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with local.serve(root) as platform, clients(platform.settings) as (rest, s3):
        s3.put_object(Bucket="libsafe", Key="1/a.txt", Body=b"hello")
        assert rest.ok("GET", "/user/me")["id"] == "1"


def test_sixteen_starters_share_one_platform(root):
    code = (
        "import sys; from libsafe_nb import local; s = local.ensure(sys.argv[1]); print(s.url, s.s3.endpoint)"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
        for _ in range(16)
    ]
    answers = {racer.communicate(timeout=120)[0] for racer in racers}

    assert [racer.returncode for racer in racers] == [0] * 16
    assert len(answers) == 1
    assert local.status(root)["running"]
    assert local.stop(root)
    assert not local.stop(root)
    assert not local.status(root)["running"]


def test_serving_where_one_runs_joins_it_and_leaves_it_running(root):
    with local.serve(root) as platform:
        with local.serve(root) as joined:
            assert joined.url == platform.url
        assert local.status(root)["running"]
        with pytest.raises(LocalPlatformError, match="runs there already"):
            local.run_foreground(root)


def test_objects_stored_while_the_platform_process_is_dead_appear_after_its_restart(root):
    settings = local.ensure(root)
    with clients(settings) as (rest, s3):
        s3.put_object(Bucket="libsafe", Key="1/before.txt", Body=b"1")
        s3.put_object(Bucket="libsafe", Key="1/gone.txt", Body=b"1")
        eventually(lambda: len(rest.listed("1")) == 2)
        s3_side = Root(root).s3_side_running()

        kill(Root(root).running())
        s3.put_object(Bucket="libsafe", Key="1/while/down.csv", Body=b"1,2")
        s3.put_object(Bucket="libsafe", Key="1/before.txt", Body=b"changed")
        s3.delete_object(Bucket="libsafe", Key="1/gone.txt")

    again = local.ensure(root)
    assert (again.url, again.s3.endpoint) == (settings.url, settings.s3.endpoint)
    with clients(again) as (rest, _):
        eventually(
            lambda: (
                {(each["path"], each["size"]) for each in rest.listed("1", type="FILE")}
                == {("before.txt", 7), ("while/down.csv", 3)}
            )
        )
    assert Root(root).s3_side_running() == s3_side, "the S3 side was adopted, not replaced"


@pytest.mark.parametrize("victim", ["s3side", "weed"])
def test_the_s3_side_comes_back_on_the_same_endpoint(root, victim):
    with local.serve(root) as platform, clients(platform.settings) as (rest, s3):
        s3.put_object(Bucket="libsafe", Key="1/a.txt", Body=b"acknowledged")
        eventually(lambda: rest.listed("1"))
        weed = weed_of(root)
        kill(Root(root).s3_side_running() if victim == "s3side" else weed)
        eventually(lambda: not weed.alive)
        file = rest.listed("1")[0]["id"]
        meanwhile = rest.send("POST", f"/file/{file}/restore")
        assert meanwhile.status_code in (200, 503), meanwhile.text

        def stored():
            with contextlib.suppress(Exception):
                return s3.put_object(Bucket="libsafe", Key="1/b.txt", Body=b"after")

        eventually(stored, within=30)
        assert s3.get_object(Bucket="libsafe", Key="1/a.txt")["Body"].read() == b"acknowledged"
        eventually(lambda: {each["path"] for each in rest.listed("1")} == {"a.txt", "b.txt"})
        assert from_platform_file(root / "platform.json").s3.endpoint == platform.settings.s3.endpoint


def test_killing_everything_at_once_loses_nothing_that_was_answered(root):
    settings = local.ensure(root)
    with clients(settings) as (rest, s3):
        for number in range(50):
            s3.put_object(Bucket="libsafe", Key=f"1/f{number}.txt", Body=b"x" * number)
        job = rest.job("1")
        processes = [Root(root).running(), Root(root).s3_side_running(), weed_of(root)]
        for process in processes:
            process.signal(signal.SIGKILL)
    eventually(lambda: not any(process.alive for process in processes))

    with clients(local.ensure(root)) as (rest, s3):
        assert rest.ok("GET", f"/job/{job}")["id"] == job
        sizes = {f"f{number}.txt": number for number in range(50)}
        eventually(lambda: {each["path"]: each["size"] for each in rest.listed("1")} == sizes)
        # At once: a platform is ready when the volumes are known, not before.
        assert s3.get_object(Bucket="libsafe", Key="1/f49.txt")["Body"].read() == b"x" * 49


def test_rows_that_differ_from_the_store_are_put_right_after_a_start(root):
    """As when the last events were lost with the S3 server: compared with a full listing."""
    with local.serve(root) as platform, clients(platform.settings) as (rest, s3):
        for number in range(30):
            s3.put_object(Bucket="libsafe", Key=f"1/d/f{number:02}.csv", Body=b"x" * number)
        rest.ok("POST", "/container/1/import", data=json.dumps({"path": "imported", "size": 9}))
        eventually(lambda: len(rest.listed("1", type="FILE")) == 31)
        truth = [(each["path"], each["size"], each["mime"], each["etag"]) for each in rest.listed("1")]
    with contextlib.closing(sqlite3.connect(Root(root).database)) as rows, rows:
        rows.execute("DELETE FROM file WHERE path LIKE 'd/f0%'")
        rows.execute("UPDATE file SET size = 1, etag = 'other' WHERE path LIKE 'd/f1%'")
        rows.execute("UPDATE file SET deleted = 1 WHERE path LIKE 'd/f20%'")
        rows.execute(
            "INSERT INTO file (container_id, path, filename, type, version_id, date_create, date_update)"
            " VALUES (1, 'd/never', 'never', 'FILE', 'v', '', '')"
        )

    def found():
        return [(each["path"], each["size"], each["mime"], each["etag"]) for each in rest.listed("1")]

    with local.serve(root) as platform, clients(platform.settings) as (rest, _):
        eventually(lambda: found() == truth)


def tail_of(root):
    """The program that prints the store's event stream."""
    platform = Root(root).running().pid
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == platform and b"filer.meta.tail" in stat.with_name("cmdline").read_bytes():
                return ProcessId.of(int(stat.parent.name))
    return None


def test_what_the_stream_does_not_tell_is_looked_up(root):
    """Under load the store's stream was silent for more than a minute, while files were put."""
    with local.serve(root) as platform, clients(platform.settings) as (rest, s3):

        def put(name, body=b"x"):
            s3.put_object(Bucket="libsafe", Key=f"1/{name}", Body=body)

        def listed():
            return {each["path"] for each in rest.listed("1", type="FILE")}

        for name in ("kept", "changed", "deleted", "one of a list"):
            put(name)
        eventually(lambda: len(listed()) == 4)
        silent = tail_of(root)
        assert silent.signal(signal.SIGSTOP)
        put("new")
        put("changed", b"more")
        s3.copy_object(Bucket="libsafe", Key="1/copy", CopySource="libsafe/1/kept")
        upload = {"Bucket": "libsafe", "Key": "1/parts"}
        upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
        part = s3.upload_part(**upload, PartNumber=1, Body=b"part")
        s3.complete_multipart_upload(
            **upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        )
        s3.delete_object(Bucket="libsafe", Key="1/deleted")
        s3.delete_objects(Bucket="libsafe", Delete={"Objects": [{"Key": "1/one of a list"}]})
        names = {"kept", "changed", "new", "copy", "parts"}
        eventually(lambda: listed() == names, within=20)
        sizes = {each["path"]: each["size"] for each in rest.listed("1", type="FILE")}
        assert sizes["changed"] == 4
        # The stream is begun anew, and goes on.
        eventually(lambda: tail_of(root) not in (None, silent))
        put("after")
        eventually(lambda: listed() == {*names, "after"})


def test_jobs_created_under_repeated_kills_are_made_once(root):
    """Each write carries a key; whatever was answered or not, a repeat makes no second row."""
    settings = local.ensure(root)
    stop = threading.Event()

    def killer():
        while not stop.wait(1.0):
            process = Root(root).running()
            if process is not None:
                process.signal(signal.SIGKILL)
                local.ensure(root)

    thread = threading.Thread(target=killer)
    thread.start()
    made = {}
    try:
        with clients(settings) as (rest, _):
            for number in range(20):
                deadline = time.monotonic() + 60
                while number not in made:
                    assert time.monotonic() < deadline
                    with contextlib.suppress(OSError):
                        answer = rest.ok(
                            "POST",
                            "/job",
                            json={"container_id": "1", "name": f"job {number}"},
                            headers={"Idempotency-Key": f"key {number}"},
                        )
                        made[number] = answer["id"]
                        time.sleep(0.15)
    finally:
        stop.set()
        thread.join()
    with clients(local.ensure(root)) as (rest, _):
        names = [job["name"] for job in rest.ok("GET", "/job")]
    assert names == [f"job {number}" for number in range(20)]
    assert len(set(made.values())) == 20


def test_a_platform_ends_when_it_has_been_idle(root):
    with local.serve(root, idle=3.0) as platform, clients(platform.settings) as (rest, s3):
        process, s3_side = Root(root).running(), Root(root).s3_side_running()
        for _ in range(40):
            # Longer than the idle time in all: requests of either kind keep it alive.
            s3.list_objects_v2(Bucket="libsafe", Prefix="1/")
            time.sleep(0.1)
        for _ in range(40):
            rest.ok("GET", "/user/me")
            time.sleep(0.1)
        assert process.alive
        eventually(lambda: not process.alive and not s3_side.alive, within=30)
    assert not (root / "platform.json").exists()


def test_a_platform_ends_with_the_process_that_serves_it(root):
    code = (
        "import sys, time\nfrom libsafe_nb import local\n"
        "with local.serve(sys.argv[1]): print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"up\n"
        process, s3_side = Root(root).running(), Root(root).s3_side_running()
        owner.kill()
        eventually(lambda: not process.alive and not s3_side.alive, within=30)


def test_an_s3_side_that_no_platform_adopts_ends_by_itself(root):
    local.ensure(root)
    local.stop(root)
    code = (
        "import sys; from libsafe_nb.local import s3side; s3side.ORPHAN_SECONDS = 2.0;"
        " sys.exit(s3side.main([sys.argv[1], 'libsafe']))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(root)]) as orphan:
        eventually(lambda: Root(root).s3_side_running())
        weed = weed_of(root)
        assert orphan.wait(30) == 0
    assert not weed.alive


def test_stopping_and_starting_at_once_hangs_nowhere_and_leaves_nothing(root):
    started = []

    def start():
        for _ in range(3):
            # Stopped while it was starting: that is said.
            with contextlib.suppress(LocalPlatformError):
                started.append(local.ensure(root).url)

    starters = [threading.Thread(target=start) for _ in range(3)]
    for starter in starters:
        starter.start()
    pauses = itertools.cycle((0.2, 4.0, 0.7, 1.2))
    while any(starter.is_alive() for starter in starters):
        local.stop(root)
        time.sleep(next(pauses))
    for starter in starters:
        starter.join()
    local.stop(root)

    assert started
    assert not Root(root).running()
    assert not Root(root).s3_side_running()
    assert not weed_of(root).alive


def test_taken_ports_are_replaced_and_the_new_endpoint_is_published(root):
    with local.serve(root) as platform, clients(platform.settings) as (_, s3):
        s3.put_object(Bucket="libsafe", Key="1/a.txt", Body=b"hello")
        side = read_json(Root(root).s3_side)
        taken = [int(platform.url.split(":")[2].split("/")[0]), side["port"], *side["weed"]["ports"]]
    with contextlib.ExitStack() as stack:
        for port in taken:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        with local.serve(root) as platform, clients(platform.settings) as (rest, s3):
            assert platform.url != f"http://127.0.0.1:{taken[0]}/api"
            assert platform.settings.s3.endpoint != f"http://127.0.0.1:{taken[1]}"
            assert s3.get_object(Bucket="libsafe", Key="1/a.txt")["Body"].read() == b"hello"
            assert rest.file("1", "a.txt")["size"] == 5


def test_chunks_that_were_answered_survive_a_crash(root):
    with clients(local.ensure(root)) as (rest, _):
        for index, chunk in enumerate((b"one ", b"two ", b"three")):
            form = {"fileName": "a", "chunkIndex": str(index), "totalChunks": "4"}
            rest.ok("POST", "/container/1/file/upload", files={"file": chunk}, data=form)
        kill(Root(root).running())
    with clients(local.ensure(root)) as (rest, s3):
        eventually(lambda: [each["size"] for each in rest.listed("1")] == [13])
        assert s3.get_object(Bucket="libsafe", Key="1/a")["Body"].read() == b"one two three"


def test_the_s3_servers_inner_http_ports_take_no_writes(served):
    ports = read_json(Root(served.root).s3_side)["weed"]["ports"]
    names = dict(zip(PORT_NAMES, ports, strict=True))
    write = requests.post(
        f"http://127.0.0.1:{names['filer.port']}/buckets/libsafe/1/x", files={"file": b"x"}, timeout=10
    )
    read = requests.get(f"http://127.0.0.1:{names['filer.port']}/buckets/libsafe/", timeout=10)

    assert (write.status_code, read.status_code) == (401, 401)


def test_an_orphaned_s3_side_is_stopped_by_stop(root):
    local.ensure(root)
    s3_side, weed, left = Root(root).s3_side_running(), weed_of(root), sockets(root)
    kill(Root(root).running())
    assert s3_side.alive

    assert local.stop(root)
    assert not s3_side.alive
    assert not weed.alive
    assert not left & sockets(root)


def test_a_hung_s3_side_is_stopped_with_its_server(root, monkeypatch):
    local.ensure(root)
    s3_side, weed, left = Root(root).s3_side_running(), weed_of(root), sockets(root)
    monkeypatch.setattr(keeper, "S3_STOP_SECONDS", 2.0)
    kill(Root(root).running())
    s3_side.signal(signal.SIGSTOP)

    assert local.stop(root)
    assert not s3_side.alive
    assert not weed.alive
    assert not left & sockets(root)


def test_what_a_killed_s3_server_left_in_tmp_is_cleared_away_by_stop(root):
    local.ensure(root)
    for process in (Root(root).running(), Root(root).s3_side_running()):
        kill(process)
    eventually(lambda: not weed_of(root).alive)
    left = sockets(root)
    assert left

    local.stop(root)
    assert not left & sockets(root)


@pytest.mark.skipif(machine.machine() != "x86_64", reason="the system call's number is that of x86-64")
def test_a_process_whose_first_thread_has_ended_is_alive():
    ends_its_first_thread = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", ends_its_first_thread]) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
        found = ProcessId.of(process.pid)
        assert found.alive
        process.kill()
        eventually(lambda: not found.alive)


def test_a_strangers_pid_is_never_taken_for_ours(root):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        ours = ProcessId.of(stranger.pid)
        file = root.parent / "id.json"
        file.write_text(json.dumps({**ours.as_dict(), "started": ours.started - 1}))

        assert live_process(file) is None
        assert not ProcessId(ours.pid, ours.started, "another boot").signal(signal.SIGKILL)
        assert stranger.poll() is None
        stranger.kill()


def test_a_taken_port_is_said(root, served):
    port = int(served.url.split(":")[2].split("/")[0])
    with pytest.raises(LocalPlatformError, match=f"127.0.0.1:{port}"), local.serve(root, port=port):
        pass
    assert not local.status(root)["running"]


def test_the_foreground_says_where_and_ends_on_a_signal(root):
    code = "import sys; from libsafe_nb import local; local.run_foreground(sys.argv[1])"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout.readline().startswith("serving http://127.0.0.1:")
        process = Root(root).running()
        owner.send_signal(signal.SIGINT)
        owner.wait(60)
    assert not process.alive
    assert not (root / "platform.json").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalPlatformError, match="cannot hold a platform"):
        local.ensure(tmp_path / "file" / "root")
