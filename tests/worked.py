"""The worked functions in `notebooks/`, for their tests: each run in a container of its own, and what it left there."""

from __future__ import annotations

import contextlib
import csv
import http.server
import importlib.util
import io
import json
import shlex
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner
from environs import variables

from libsafe_nb import testing
from libsafe_nb.cli import cli

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "notebooks" / "samples"
LETTER = (SAMPLES / "letter.txt").read_bytes()
JPEG = (SAMPLES / "pictures" / "1911-03-03_harbour.jpg").read_bytes()
PDF = (SAMPLES / "papers" / "harbour report 1911.pdf").read_bytes()
MIB = 2**20

_spec = importlib.util.spec_from_file_location("gallery", ROOT / ".ci" / "gallery.py")
gallery = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gallery)


@dataclass
class Case:
    """What a function is run over, and what it is to leave; texts are parts of what is told, `failed` and `warned` all that is."""

    files: dict = field(default_factory=dict)
    """Those that are chosen: path in the container, and bytes or a local file."""
    beside: dict = field(default_factory=dict)
    params: dict = field(default_factory=dict)
    gone: tuple = ()
    """Chosen files that are deleted when the function has begun."""
    failed: dict = field(default_factory=dict)
    warned: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    stored: dict = field(default_factory=dict)
    absent: tuple = ()
    scraps: dict = field(default_factory=dict)


class Left:
    """What a run of a function left in its container."""

    def __init__(self, place, run, job, status, scraps):
        self.place, self.run, self.status, self.scraps = place, run, status, scraps
        client = place.connection.client
        paths = {each["id"]: each["fullpath"] for each in client.files(place.id)}
        self.messages = {kind: defaultdict(list) for kind in ("ERROR", "WARNING", "INFO")}
        for each in client.messages(job):
            path = paths.get(each["file_id"], each["file_id"]) or ""
            self.messages[each["type"]][path].append(each["message"])

    def says(self, kind, path, part):
        assert any(part in message for message in self.messages[kind][path]), (path, self.messages[kind])

    def metadata(self, path):
        return self.place.file(path).metadata

    def rows(self, path):
        return list(csv.DictReader(io.StringIO(self.place.read(path).decode(), newline="")))

    def check(self, case):
        """Hold it against what the case wants."""
        for kind, wanted in (("ERROR", case.failed), ("WARNING", case.warned), ("INFO", case.told)):
            for path, parts in wanted.items():
                for part in [parts] if isinstance(parts, str) else parts:
                    self.says(kind, path, part)
            if wanted is not case.told:
                assert set(self.messages[kind]) - {""} == set(wanted)
        for path, wanted in case.metadata.items():
            found = self.metadata(path)
            assert found if wanted else not found, path
            assert {name: found.get(name) for name in wanted} == wanted, path
        for path, data in case.stored.items():
            assert self.place.read(path) == data, path
        assert not set(case.absent) & set(self.place.files)
        assert {**self.scraps, **case.scraps} == self.scraps
        assert self.scraps["failures"] == sum(map(len, self.messages["ERROR"].values()))
        assert self.status == ("FAILED" if self.scraps["failures"] else "COMPLETED")


def run(place, name, case):
    """Run a function over a case's files."""
    for path, source in {**case.beside, **case.files}.items():
        place.put(path, source)
    client = place.connection.client
    ids = [client.file_by_path(place.id, path)["id"] for path in case.gone]
    vanishing = list(ids)

    def on_cell(state):
        while vanishing:
            client.delete_file(vanishing.pop())

    done = testing.run(
        place,
        ROOT / "notebooks" / f"{name}.ipynb",
        files=list(case.files),
        params=case.params,
        on_cell=on_cell if ids else None,
    )
    assert done.error is None, done.error
    for each in ids:  # back again, so that its messages can be told by its path
        client.restore_file(each)
    return Left(place, done, done.job, client.job(done.job)["status"], done.scraps)


def run_samples(place, name, folder=SAMPLES):
    """Run a function by the very commands that its notebook and the gallery show."""
    for program, *command in map(shlex.split, gallery.commands(ROOT / "notebooks" / f"{name}.ipynb")):
        if program != "libsafe-nb":
            continue  # the server of fetch_files is the test's own
        verb, *words = [word for each in command for word in expanded(each, folder)]
        more = ["--json"] if verb == "run" else []
        done = CliRunner().invoke(
            cli, [verb, "--container", place.id, *words, *more], env=variables(place.connection.settings)
        )
        assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    status = place.connection.client.job(told["job"])["status"]
    return Left(place, told, told["job"], status, told["scraps"])


def expanded(word, folder):
    """A word as a shell in the project's folder gives it on, the samples perhaps from elsewhere."""
    if not word.startswith("notebooks/"):
        return [word]
    inside = word.removeprefix("notebooks/samples/")
    root = ROOT if inside == word else folder
    found = sorted(str(path) for path in root.glob(inside) if path.is_file() or "*" not in inside)
    assert found, f"{word}: no such file"
    return found


@contextlib.contextmanager
def served(folder, answer=None):
    """A web server on loopback; `answer` may answer a request in its own way, and says whether it did."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            if answer is None or not answer(self):
                super().do_GET()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
