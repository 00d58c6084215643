"""
A function over many small files: of each its metadata, its bytes, three digests, four messages, three hashes stored.

    python benchmarks/small_files.py [--runs 7] [--files 2000] [--kib 10] [--json FILE] [--page docs/performance.md]

On a local platform of its own, by turns in each round:

    ours            the loop as the vendor's page writes it, in a run: all nine calls a file, to the last of them delivered
    without obstore the same, where obstore is not found
    peer            the same nine calls one by one, with one requests Session and one boto3 client; a seventh of the files
                    each round, another one each time, told as if it were all (`--peer all` gives it all: one by one, each costs
                    the same)
    limit           the bytes alone, fetched by four threads

Each is timed within its own process, from the first file to the last call's answer; start-up is left out on both sides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import figures

OURS = """
import sys
if not {fast}:
    sys.modules["obstore"] = None
import hashlib, json, os, time
from libnova import Util
from libnova.com.Nuclio import Request
from libnova.com.Api import File, JobMessage
from libnova.com.Filesystem import S3
request = Request.Request(None, type("", (object,), {{"body": json.dumps(json_sample)}})())
request.job_init()
began, used = time.perf_counter(), time.process_time()
info = JobMessage.JobMessageType.INFO
for file in request.Files:
    metadata = File.get_metadata(file.id, True)
    if metadata is not None:
        request.log(Util.format_json_item(metadata), info)
    else:
        request.log("File " + file.id + " has no metadata", info)
    stream = S3.File.get_stream(request.Storage, file)
    hashes = {{name: hashlib.new(name) for name in ("md5", "sha1", "sha256")}}
    block = stream.read(8 * 1024 * 1024)
    while block:
        for each in hashes.values():
            each.update(block)
        block = stream.read(8 * 1024 * 1024)
    for name, each in hashes.items():
        request.log("File hash calculated: " + name + " " + each.hexdigest(), info, file.id)
    for name, each in hashes.items():
        File.set_hash(file.id, name, each.hexdigest())
loop = time.perf_counter() - began
request.job_end(True)
with open({path!r}, "w") as told:
    json.dump([time.perf_counter() - began, loop, time.process_time() - used], told)
"""

PEER = """
import hashlib, json, sys, time
import boto3, requests
from botocore.config import Config
given = json.load(sys.stdin)
session = requests.Session()
session.headers["Authorization"] = "Bearer " + given["key"]
s3 = boto3.client("s3", endpoint_url=given["endpoint"], aws_access_key_id=given["access_key"],
                  aws_secret_access_key=given["secret_key"], region_name=given["region"] or "us-east-1",
                  config=Config(s3={"addressing_style": "path"}))
url, job = given["url"], given["job"]
def call(method, path, body=None):
    answer = session.request(method, url + path, json=body)
    answer.raise_for_status()
    return answer.json()["result"]
def log(text, file=None):
    call("POST", f"/job/{job}/message", {"type": "INFO", "message": text, **({"file_id": file} if file else {})})
began = time.perf_counter()
for file, key in given["files"]:
    metadata = call("GET", f"/file/{file}/metadata")
    log(json.dumps(metadata) if metadata else f"File {file} has no metadata")
    stream = s3.get_object(Bucket=given["bucket"], Key=key)["Body"]
    hashes = {name: hashlib.new(name) for name in ("md5", "sha1", "sha256")}
    block = stream.read(8 * 1024 * 1024)
    while block:
        for each in hashes.values():
            each.update(block)
        block = stream.read(8 * 1024 * 1024)
    for name, each in hashes.items():
        log("File hash calculated: " + name + " " + each.hexdigest(), file)
    for name, each in hashes.items():
        call("PUT", f"/file/{file}/hash", {"algorithm": name, "value": each.hexdigest()})
print(time.perf_counter() - began)
"""


PARTS = 7


def main() -> None:
    parser = figures.options(__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kib", type=int, default=10, help="size of each file")
    parser.add_argument(
        "--peer", choices=["part", "all"], default="part", help="which files the peer is given a round"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="small-") as folder:
        os.environ["LIBSAFE_NB_HOME"] = folder
        measure(Path(folder), given)


def measure(folder: Path, given: argparse.Namespace) -> None:
    runs, count, kib = given.runs, given.files, given.kib
    import nbformat

    import libsafe_nb
    from libsafe_nb import local
    from libsafe_nb.connection import connect
    from libsafe_nb.smallobjects import SmallObjects

    with local.serve(folder / "platform") as served:
        connection = connect(settings=served.settings)
        client, storage = connection.client, connection.storage
        container = str(client.create_container("small")["id"])
        for n in range(count):
            storage.put(container, f"{n:05}.bin", os.urandom(kib * 1024))
        rows = [each for each in client.files(container) if each["type"] == "FILE"]
        assert len(rows) == count
        files = [(each["id"], f"{container}/{str(each['fullpath']).lstrip('/')}") for each in rows]
        told = folder / "told.json"
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        for fast in (True, False):
            cells = [
                nbformat.v4.new_code_cell("json_sample = {}", metadata={"tags": ["parameters"]}),
                nbformat.v4.new_code_cell(OURS.format(path=str(told), fast=fast)),
            ]
            book = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
            nbformat.write(book, folder / f"small-{fast}.ipynb")
        parts = itertools.cycle(range(PARTS))
        s3 = served.settings.s3
        assert s3 is not None
        loops: list[float] = []
        kernels: list[float] = []

        def ours(fast: bool) -> float:
            run = libsafe_nb.run(
                None,
                folder / f"small-{fast}.ipynb",
                container=container,
                files=[each for each, _ in files],
                settings=served.settings,
            ).raise_for_failure()
            whole, loop, used = json.loads(told.read_text())
            loops.append(loop)
            kernels.append(used)
            said = sum("calculated" in each["message"] for each in client.messages(run.job))
            assert said == 3 * count, said
            hashes = client.file(files[-1][0])["hashes"]
            assert len(hashes) == 3, hashes
            return float(whole)

        def peer() -> float:
            job = client.create_job(container)["id"]
            part = files if given.peer == "all" else files[next(parts) :: PARTS]
            asked = {
                "url": served.settings.url,
                "key": served.settings.key_user,
                "job": job,
                "files": part,
                "endpoint": s3.endpoint,
                "bucket": s3.bucket,
                "access_key": s3.access_key,
                "secret_key": s3.secret_key,
                "region": s3.region,
            }
            done = subprocess.run(
                [sys.executable, "-c", PEER],
                input=json.dumps(asked),
                text=True,
                capture_output=True,
                check=True,
            )
            return float(done.stdout) * count / len(part)

        def limit() -> float:
            objects = SmallObjects(storage)
            began = time.perf_counter()
            with ThreadPoolExecutor(4) as pool:
                for _ in pool.map(lambda row: objects.get(container, str(row["fullpath"]), kib * 1024), rows):
                    pass
            return time.perf_counter() - began

        ways = {
            **({"ours": lambda: ours(True)} if find_spec("obstore") else {}),
            "ours, without obstore": lambda: ours(False),
            "peer": peer,
            "limit": limit,
        }
        taken = figures.rounds(ways, runs)
        connection.close()
    med = {name: statistics.median(each) for name, each in taken.items()}
    rows = []
    for what, name in (("the vendor's sample", "ours"), ("without obstore", "ours, without obstore")):
        if name not in med:
            # It is an extra: pip install 'libsafe-nb[fast]'
            continue
        row = (med[name], med["peer"], med["limit"], figures.ratio(taken, "peer", name))
        rows.append(figures.Row(what, *row, "peer", 6.0))
    head = f"{count} files of {kib} KiB, median of {runs}, s"
    note = "" if given.peer == "all" else f" The peer was given a {PARTS}th of the files a round."
    text = f"{figures.table(head, rows)}\nOf ours, the kernel's own processor time is {statistics.median(kernels):.2f} s.{note} {figures.made()}"
    more = {"seconds": taken, "processor_seconds_of_the_kernel": kernels, "seconds_in_the_loop": loops}
    figures.keep("small_files", rows, text, path=given.json, page=given.page, title=head, **more)


if __name__ == "__main__":
    main()
