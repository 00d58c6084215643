"""Maps on a real Dask cluster: a scheduler and workers of their own processes, which are killed."""

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading

import maps
import pytest
from engine_runs import wait_for
from environs import variables

pytest.importorskip("distributed")

from libsafe_nb import cluster
from libsafe_nb.errors import UsageError
from libsafe_nb.mapping import layout, running, working
from libsafe_nb.mapping.layout import Shelf


class Dask:
    """A scheduler and its workers, started as an operator would, on loopback."""

    def __init__(self, folder, environ):
        self.folder, self.environ = folder, environ
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = None
        self.workers = []

    def _start(self, *words):
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]],
                env=self.environ,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def start_scheduler(self):
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"
        )

        def listens():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True

        wait_for(listens, 60, "the scheduler")

    def start_worker(self):
        place = self.folder / f"worker-{len(self.workers)}"
        place.mkdir()
        self.workers.append(
            self._start(
                "worker",
                *(self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"),
                *("--local-directory", str(place), "--death-timeout", "120"),
            )
        )
        return self.workers[-1]

    def stop(self):
        for process in [*self.workers, self.scheduler]:
            if process is not None and process.poll() is None:
                process.terminate()
        for process in [*self.workers, self.scheduler]:
            if process is not None:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@pytest.fixture
def dask(platform, tmp_path):
    found = Dask(tmp_path, {**os.environ, **variables(platform.settings)})
    found.start_scheduler()
    yield found
    found.stop()


def ended(connection, container):
    for name in layout.maps(connection.storage, container):
        return len(list(Shelf(connection.storage, container, name).names("done")))
    return 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("batches", [6, 50])
def test_a_worker_is_killed_and_the_scheduler_restarted_and_each_file_has_one_result(
    batches, dask, platform, connection, container, tmp_path
):
    maps.files(connection, container, *[f"{n}.txt" for n in range(2 * batches)])
    dask.start_worker()
    first = dask.start_worker()
    told = {}

    def coordinate():
        told.update(
            running.run(
                maps.function(tmp_path / "f.ipynb"),
                container=container,
                each=2,
                dask=dask.address,
                settings=platform.settings,
            )
        )

    thread = threading.Thread(target=coordinate, daemon=True)
    thread.start()
    wait_for(lambda: ended(connection, container) >= batches // 4, 300, "a quarter")
    first.kill()
    first.wait()
    wait_for(lambda: ended(connection, container) >= batches // 2, 300, "a half")
    dask.scheduler.kill()
    dask.scheduler.wait()
    dask.start_scheduler()
    # Dask's workers end with their scheduler; whoever watches over them starts them again.
    for worker in dask.workers:
        if worker is not first:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(30)
    dask.start_worker()
    dask.start_worker()
    thread.join(600)

    assert told["files"] == {"total": 2 * batches, "completed": 2 * batches}
    assert len(maps.results(connection, container, told["map"])) == 2 * batches


@pytest.mark.slow
def test_a_map_on_a_cluster_is_killed_and_goes_on_there(dask, platform, connection, container, tmp_path):
    maps.files(connection, container, *[f"{n}.txt" for n in range(6)])
    dask.start_worker()
    path = maps.function(tmp_path / "f.ipynb")
    command = [sys.executable, "-m", "libsafe_nb", "map", "--container", container, "--dask", dask.address]
    process = subprocess.Popen([*command, "--each", "1", str(path)], env=dask.environ)
    wait_for(lambda: ended(connection, container) >= 2, 120, "two batches")
    process.kill()
    process.wait()
    again = subprocess.run(
        [*command, "--json", "--resume"], env=dask.environ, capture_output=True, text=True, timeout=240
    )

    assert (again.returncode, again.stderr) == (0, "")
    assert len(maps.results(connection, container, json.loads(again.stdout)["map"])) == 6


def test_an_interruption_reaches_the_workers_of_a_cluster(dask, platform, connection, container, tmp_path):
    maps.files(connection, container, "1.txt")
    dask.start_worker()
    path = maps.function(tmp_path / "f.ipynb", "import time; time.sleep(600)")
    command = [
        sys.executable,
        "-m",
        "libsafe_nb",
        "map",
        "--container",
        container,
        "--dask",
        dask.address,
        str(path),
    ]
    process = subprocess.Popen(command, env=dask.environ, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(connection.storage.list(container, "provenance/started/")), 120, "the run")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.communicate()

    wait_for(
        lambda: (
            [job["status"] for job in connection.client.jobs(container=container) if job["parent_id"]]
            == ["CANCELLED"]
        ),
        60,
        "the end of the run",
    )


def test_what_goes_to_the_cluster_holds_names_only(platform):
    """No key, no address, no payload: what a task is about lies in the container."""
    from distributed.protocol.serialize import serialize

    words = ("20261126T101500000Z-1a2b3c4d", "12", "00000003")
    sent = [pickle.dumps((working.work, words)), *map(bytes, serialize((working.work, words))[1])]
    own = variables(platform.settings)
    # The bucket's name is no secret, and that of this package.
    del own["LIBSAFE_S3_BUCKET"]
    for value in [*own.values(), platform.settings.key_root]:
        for each in sent:
            assert value.encode() not in each
    assert max(map(len, sent)) < 500


def test_the_coordinator_submits_nothing_else(platform, connection, container, tmp_path, monkeypatch):
    """What `submit` is given is exactly such a task, with what is kept from keys taken from the real one."""
    maps.files(connection, container, "1.txt")
    given = []

    class Instead:
        def __init__(self, address, **_):
            pass

        def most(self):
            return 1

        def submit(self, fn, *words):
            from concurrent.futures import Future

            given.append((fn, words))
            found = Future()
            with pytest.MonkeyPatch.context() as patch:
                for name, value in variables(platform.settings).items():
                    patch.setenv(name, value)
                found.set_result(fn(*words))
            return found

        def interrupt(self, number=2):
            pass

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(cluster, "Cluster", Instead)
    told = running.run(
        maps.function(tmp_path / "f.ipynb"),
        container=container,
        dask="tcp://elsewhere:1",
        settings=platform.settings,
    )

    assert given == [(working.work, (told["map"], container, "00000000"))]


def test_nobody_at_the_address_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECTS", 0.5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UsageError, match="expected a Dask scheduler there, found none"):
            cluster.Cluster(address, cancel=(print, ""))


def test_where_dask_is_not_installed_a_sentence_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)

    with pytest.raises(UsageError, match=r"pip install 'libsafe-nb\[dask\]'"):
        cluster.Cluster("local", cancel=(print, ""))


def test_a_cluster_on_this_machine(platform, connection, container, tmp_path):
    maps.files(connection, container, "1.txt", "2.txt")
    before = dict(os.environ)
    told = running.run(
        maps.function(tmp_path / "f.ipynb"),
        container=container,
        each=1,
        dask="local",
        workers=1,
        settings=platform.settings,
    )

    assert dict(os.environ) == before
    assert len(maps.results(connection, container, told["map"])) == 2
