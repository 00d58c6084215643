"""
Objects put by eight S3 clients at once while the platform is killed: every one is handled, and exactly once in the results.

300 objects and one kill each time; 10,000 and three kills with `-m slow`.
"""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from conftest import REQUEST, write_function
from engine_runs import wait_for

from libsafe_nb import local, publishing
from libsafe_nb.connection import connect
from libsafe_nb.functions import Functions
from libsafe_nb.local.root import Root

CLIENTS = 8
HASH = (
    REQUEST
    + """
import hashlib
for each in request.Files:
    File.set_hash(each.id, "sha256", hashlib.sha256(each.fullpath.encode()).hexdigest())
request.job_end(True)
"""
)


class Puts:
    """Clients that are none of ours, each with its share of the objects."""

    def __init__(self, s3, count):
        self.s3, self.count, self.done = s3, count, 0
        self._lock = threading.Lock()

    def share(self, number):
        client = boto3.client(
            "s3",
            endpoint_url=self.s3.endpoint,
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
            region_name=self.s3.region,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 10}),
        )
        with contextlib.closing(client):
            for each in range(number, self.count, CLIENTS):
                client.put_object(Bucket=self.s3.bucket, Key=f"1/in/{each}.txt", Body=b"%d" % each)
                with self._lock:
                    self.done += 1


def resident(pid):
    """Bytes of a process's memory that are its own and in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def finished(functions):
    found = functions.queue()
    return not (found["queued"] or found["running"] or found["events"])


@pytest.mark.parametrize(
    ("count", "kills", "batch"),
    [
        (300, 1, 75),
        pytest.param(10_000, 3, 250, marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)
def test_every_object_is_handled_once_in_the_results(count, kills, batch, tmp_path, home):
    root = tmp_path / "platform"
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(local.serve(root))
        connection = connect(settings=served.settings)
        functions = Functions(connection.client)
        publishing.publish(write_function(tmp_path / "hash.ipynb", HASH), settings=served.settings)
        functions.add_trigger("hash", "file_created", container_id="1", path_regex="^/in/", batch_files=batch)
        puts = Puts(served.settings.s3, count)
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        shares = [pool.submit(puts.share, number) for number in range(CLIENTS)]
        for kill in range(kills):
            # The last one when all is stored and calls are running.
            wait_for(lambda at=(kill + 1) * count // kills: puts.done >= at, 600)
            wait_for(lambda ours=functions: ours.queue()["running"], 60)
            process = Root(root).running()
            os.kill(process.pid, signal.SIGKILL)
            wait_for(lambda process=process: not process.alive, 10)
            connection.close()
            served = stack.enter_context(local.serve(root))
            connection = connect(settings=served.settings)
            functions = Functions(connection.client)
        for share in shares:
            share.result()
        platform = Root(root).running().pid
        memory = [resident(platform)]
        files = {}
        deadline = time.monotonic() + 1200

        def handled():
            assert time.monotonic() < deadline
            memory.append(resident(platform))
            rows = [each for each in connection.client.files("1") if each["path"].startswith("in/")]
            files.update({each["id"]: each for each in rows if each["type"] == "FILE"})
            return len(files) == count and finished(functions)

        while not handled():
            time.sleep(0.5)
        times = Counter()
        for call in functions.calls():
            assert call["status"] == "completed", call
            times.update(functions.get_call(call["id"])["file_ids"])
        hashed = [each for each in connection.client.files("1") if each["hashes"].get("sha256")]
        jobs = list(connection.client.jobs())
        connection.close()

    assert set(times) == set(files)
    assert set(times.values()) == {1}
    assert len(hashed) == count
    assert all(each["status"] != "RUNNING" for each in jobs)
    assert max(memory) - min(memory) < 100 * 1024 * 1024, memory
