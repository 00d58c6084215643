"""
Alterations of evidence, as somebody would make them who knows the format: sums, digests and links are made anew
wherever that helps. Each is named, and says which check must tell it.

They work on a container's copy on a disk. `benchmarks/tampering.py` writes what came of them into docs/verification.md.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import nbformat
from attesters import Authority, key_pair, public
from nbformat.v4 import new_code_cell, new_notebook

import libsafe_nb
from libsafe_nb import chain, evidence, signing
from libsafe_nb.record import canonical, code_hash, digest

PARAMETERS = (
    'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {}}\nlimit: int = 3'
)
SETUP = """import io, json
from libnova.com.Filesystem import S3
from libnova.com.Nuclio.Request import Request
request = Request(None, type("E", (), {"body": json.dumps(json_sample)})())
request.job_init()"""
READ = """for file in request.Files:
    size = len(S3.File.get_stream(request.Storage, file).read())
    request.log(f"{size} bytes of {limit}", file_id=file.id)
    print(size)"""
WRITE = """from libnova.com.Api import File
File.write(json_sample["function_data"]["container"]["id"], "/out/sizes.txt", f"{size}\\n")
request.job_end(True)"""


class Copy:
    """A container's copy on a disk, and what an attacker does to keep it consistent."""

    def __init__(self, root: Path, witnesses: Witnesses | None = None) -> None:
        self.root, self.witnesses = root, witnesses

    def folders(self) -> list[Path]:
        """The records' folders by their start."""
        found = {each.parent for each in (self.root / "provenance").glob("*/*-job*/*")}
        return sorted(found, key=lambda each: each.name)

    def links(self) -> list[Path]:
        return sorted(self.root.glob("provenance/chain/????????.json"))

    def record(self, number: int = 0) -> dict:
        return json.loads((self.folders()[number] / "record.json").read_bytes())

    def start(self, number: int = 0) -> Path:
        return self.root / f"provenance/started/{self.record(number)['id'].removeprefix('urn:uuid:')}.json"

    def sum(self, folder: Path) -> None:
        files = {each.name: each.read_bytes() for each in folder.iterdir() if each.name != evidence.SUMS}
        (folder / evidence.SUMS).write_bytes(evidence.sums(files))

    def link(self) -> None:
        """Make the whole chain anew, of the records that are there."""
        chain = self.root / "provenance/chain"
        shutil.rmtree(chain, ignore_errors=True)
        chain.mkdir(parents=True)
        prev = None
        for seq, folder in enumerate(self.folders(), 1):
            data = (folder / "record.json").read_bytes()
            body = {
                "seq": seq,
                "prev": prev,
                "record": (folder / "record.json").relative_to(self.root).as_posix(),
                "record_sha256": digest(data),
                "sums_sha256": digest((folder / evidence.SUMS).read_bytes()),
                "run": json.loads(data)["id"].removeprefix("urn:uuid:"),
            }
            prev = digest(canonical(body))
            (chain / f"{seq:08d}.json").write_bytes(canonical(body))

    def head(self) -> dict:
        last = self.links()[-1]
        return {"seq": int(last.stem), "sha256": digest(last.read_bytes())}

    def attest(
        self,
        *,
        key: Path | None = None,
        authority: Authority | None = None,
        numbers: list[int] | None = None,
    ) -> None:
        """Sign and stamp the links, by default all, with what the container's owner has or with something else."""
        signer = signing.signer(key or self.witnesses.owner)
        for place in self.links():
            seq, data = int(place.stem), place.read_bytes()
            if numbers is None or seq in numbers:
                subjects = signing.subjects(chain.path(seq), digest(data), json.loads(data))
                (self.root / chain.envelope(seq)).write_bytes(signing.envelope(signer, subjects))
                answer = (authority or self.witnesses.authority).stamp(data)
                (self.root / chain.stamp(seq)).write_bytes(answer)

    # Changes, with all that follows of them

    def change_record(self, change: Callable[[dict], object], number: int = 0) -> None:
        folder = self.folders()[number]
        body = self.record(number)
        change(body)
        (folder / "record.json").write_bytes(canonical(body))
        self.sum(folder)
        self.link()

    def change_notebook(
        self,
        change: Callable[[dict], object],
        number: int = 0,
        also: Callable[[dict, dict], object] | None = None,
    ) -> None:
        """`also` changes the record further, and is given it and the notebook."""
        folder = self.folders()[number]
        node = json.loads((folder / "executed.ipynb").read_bytes())
        change(node)
        data = json.dumps(node, ensure_ascii=False, indent=1).encode() + b"\n"
        (folder / "executed.ipynb").write_bytes(data)

        def follow(body: dict) -> None:
            body["notebook"].update(sha256=digest(data), size=len(data))
            if also is not None:
                also(body, node)

        self.change_record(follow, number)
        self.describe(number)

    def change_json(self, name: str, change: Callable[[dict], object], number: int = 0) -> None:
        place = self.folders()[number] / name
        body = json.loads(place.read_bytes())
        change(body)
        place.write_bytes(json.dumps(body).encode())
        self.sum(place.parent)
        self.link()

    def change_premis(self, change: Callable[[ElementTree.Element], object], number: int = 0) -> None:
        place = self.folders()[number] / "premis.xml"
        root = ElementTree.fromstring(place.read_bytes())
        change(root)
        place.write_bytes(ElementTree.tostring(root))
        self.sum(place.parent)
        self.link()

    def describe(self, number: int) -> None:
        """Make crate and PREMIS anew from the record."""
        folder, body = self.folders()[number], self.record(number)
        (folder / "premis.xml").write_bytes(premis(body))
        files = {each.name: each.read_bytes() for each in folder.iterdir()}
        for name in (evidence.SUMS, "ro-crate-metadata.json"):
            files.pop(name, None)
        (folder / "ro-crate-metadata.json").write_bytes(crate(body, files))
        self.sum(folder)
        self.link()


@dataclass(frozen=True)
class Witnesses:
    """Keys and authorities: the owner's, and those of somebody else."""

    owner: Path
    stranger: Path
    authority: Authority
    other: Authority

    @classmethod
    def make(cls, folder: Path) -> Witnesses:
        keys = [key_pair(folder, name) for name in ("owner", "stranger")]
        return cls(*keys, Authority(folder / "authority"), Authority(folder / "other"))

    def trusted(self) -> dict:
        """The options of `verify`."""
        return {"keys": [public(self.owner)], "tsa_certs": [self.authority.root]}


# Descriptions ---------------------------------------------------------------------------------------------------


def premis(body: dict) -> bytes:
    """The least that PREMIS 3.0 asks for, as evidence.md 1.4 has it."""

    def file(entry: dict) -> str:
        return (
            "<object><objectIdentifier><objectIdentifierValue>{path}</objectIdentifierValue></objectIdentifier>"
            "<objectCharacteristics><fixity><messageDigestAlgorithm>SHA-256</messageDigestAlgorithm>"
            "<messageDigest>{sha256}</messageDigest></fixity><size>{size}</size></objectCharacteristics></object>"
        ).format(**{name: escape(str(entry[name])) for name in ("path", "sha256", "size")})

    known = [*(each for each in [*body["inputs"], *body["outputs"]] if each["sha256"]), body["notebook"]]
    outcome = "success" if body["status"] == "completed" else "failure"
    return (
        '<premis xmlns="http://www.loc.gov/premis/v3" version="3.0">'
        + "".join(map(file, known))
        + f"<event><eventIdentifier><eventIdentifierValue>{body['id']}</eventIdentifierValue></eventIdentifier>"
        f"<eventType>execution</eventType><eventDateTime>{body['started']}</eventDateTime>"
        f"<eventOutcomeInformation><eventOutcome>{outcome}</eventOutcome></eventOutcomeInformation></event></premis>"
    ).encode()


def crate(body: dict, files: dict[str, bytes]) -> bytes:
    """The run's action and the files, as evidence.md 1.2 has them."""
    word = "Completed" if body["status"] == "completed" else "Failed"
    action = {
        "@id": body["id"],
        "@type": "CreateAction",
        "startTime": body["started"],
        "endTime": body["ended"],
        "actionStatus": f"http://schema.org/{word}ActionStatus",
    }
    if word == "Failed":
        action["error"] = str((body["error"] or {}).get("message"))
    graph = [action]
    for name, data in files.items():
        graph.append({"@id": name, "@type": "File", "sha256": digest(data), "contentSize": str(len(data))})
    for each in [*body["inputs"], *body["outputs"]]:
        path = each["path"].lstrip("/")
        address = f"libsafe://{body['container']['id']}/{path}?versionId={each['version_id']}"
        graph.append(
            {"@id": address, "@type": "File", "sha256": each["sha256"], "contentSize": str(each["size"])}
        )
    return json.dumps({"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph}).encode()


# The evidence that is altered --------------------------------------------------------------------------------------


def make(connection, folder: Path) -> Copy:
    """Three real runs in a container of their own, the last of which fails; then a copy of the container in `folder`."""
    container = connection.client.create_container("tampering")["id"]
    folder.mkdir(parents=True)
    (folder / "letter.txt").write_bytes(b"hello\n")
    cells = {
        "count": (SETUP, READ, WRITE),
        "again": (SETUP, READ),
        "fails": (SETUP, 'raise ValueError("no such luck")', "print(1)"),
    }
    for name, sources in cells.items():
        first = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        node = new_notebook(cells=[first, *map(new_code_cell, sources)], metadata={"kernelspec": spec})
        nbformat.write(node, folder / f"{name}.ipynb")
        libsafe_nb.run(
            None,
            folder / f"{name}.ipynb",
            container=container,
            uploads=[folder / "letter.txt"],
            params={"limit": "5"},
            settings=connection.settings,
        )
    copy = download(connection, container, folder / "copy")
    for number in range(len(copy.folders())):
        copy.describe(number)
    return copy


def download(connection, container: str, target: Path) -> Copy:
    for each in connection.storage.list(container):
        place = target / each.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(connection.storage.get(container, each.path))
    return Copy(target)


# Alterations ----------------------------------------------------------------------------------------------------

FAILED = 2
"""The record of the run that failed."""


@dataclass(frozen=True)
class Alteration:
    name: str
    told_by: str
    """The check that must tell it."""
    make: Callable[[Copy], object]
    signed: bool = False
    """The links are signed and stamped before it, and whoever verifies has the public key and the certificate."""

    def report(self, copy: Copy, head: dict):
        """Alter the copy, and verify it."""
        if self.signed:
            copy.attest()
        self.make(copy)
        return libsafe_nb.verify(copy.root, head=head, **(copy.witnesses.trusted() if self.signed else {}))


ALTERATIONS: list[Alteration] = []


def alteration(name: str, told_by: str, *, signed: bool = False):
    def add(make: Callable[[Copy], object]):
        ALTERATIONS.append(Alteration(name, told_by, make, signed))
        return make

    return add


def author_cell(node: dict) -> dict:
    """The second cell of the author's, which prints."""
    return next(each for each in node["cells"] if "S3.File.get_stream" in "".join(each["source"]))


def injected(node: dict) -> dict:
    return next(each for each in node["cells"] if "injected-parameters" in each["metadata"].get("tags", ()))


def set_output(node: dict) -> None:
    author_cell(node)["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["7\n"]}]


def set_source(node: dict, text: str = "print(7)") -> None:
    author_cell(node)["source"] = [text]


def hashes(body: dict, node: dict, *, approved: bool = False, cells: bool = False) -> None:
    """Follow a change of code in the record: of what was executed, of what was approved, of the cells."""
    code = code_hash(node["cells"])
    body["function"]["executed_code_sha256"] = code
    if approved:
        body["function"]["code_sha256"] = code
    if cells:
        sources = {each["id"]: digest("".join(each["source"]).encode()) for each in node["cells"]}
        for each in body["cells"]:
            each["source_sha256"] = sources.get(each["cell_id"])


def cell_hashes(body: dict, node: dict) -> None:
    hashes(body, node, cells=True)


def all_hashes(body: dict, node: dict) -> None:
    hashes(body, node, approved=True, cells=True)


def rewrite(copy: Copy, name: str, old: bytes, new: bytes, number: int = 0) -> None:
    """Change bytes of a file, and nothing else."""
    place = copy.folders()[number] / name
    data = place.read_bytes()
    assert old in data
    place.write_bytes(data.replace(old, new, 1))


# The notebook

alteration("notebook: a byte, nothing else", "sums")(
    lambda c: rewrite(c, "executed.ipynb", b"print", b"Print")
)


@alteration("notebook: an output, the sums made anew", "notebook")
def _(copy):
    rewrite(copy, "executed.ipynb", b'"6\\n"', b'"7\\n"')
    copy.sum(copy.folders()[0])
    copy.link()


@alteration("notebook: an output, its digests made anew, the chain not", "link")
def _(copy):
    kept = {each: each.read_bytes() for each in copy.links()}
    copy.change_notebook(set_output)
    for place, data in kept.items():
        place.write_bytes(data)


alteration("notebook: an output, everything made anew", "head")(lambda c: c.change_notebook(set_output))
alteration("cell: source, all but the code's digests made anew", "code")(
    lambda c: c.change_notebook(set_source)
)
alteration("cell: source, the approved code's digest left", "code")(
    lambda c: c.change_notebook(set_source, also=cell_hashes)
)
alteration("cell: source, the cell's own digest left", "cells")(
    lambda c: c.change_notebook(set_source, also=lambda body, node: hashes(body, node, approved=True))
)
alteration("cell: source, everything made anew", "head")(
    lambda c: c.change_notebook(set_source, also=all_hashes)
)


@alteration("cell: source, excused by an invented redaction, everything made anew", "head")
def _(copy):
    def also(body, node):
        cell_hashes(body, node)
        body["redactions"] = [
            {"cell": "x", "where": "source", "name": "k", "form": "plain", "count": 1, "by": "final"}
        ]

    copy.change_notebook(set_source, also=also)


@alteration("cell: one put in", "code")
def _(copy):
    copy.change_notebook(lambda node: node["cells"].append({**author_cell(node), "id": "new"}))


@alteration("cell: one put in, the code's digests made anew", "cells")
def _(copy):
    copy.change_notebook(
        lambda node: node["cells"].append({**author_cell(node), "id": "new"}), also=all_hashes
    )


@alteration("cell: one taken out, the code's digests made anew", "cells")
def _(copy):
    copy.change_notebook(lambda node: node["cells"].remove(author_cell(node)), also=all_hashes)


@alteration("cell: the order turned round, the code's digests made anew", "cells")
def _(copy):
    copy.change_notebook(lambda node: node["cells"].reverse(), also=all_hashes)


@alteration("cell: what was not run has an output", "cells")
def _(copy):
    def change(node):
        node["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]

    copy.change_notebook(change, FAILED)


@alteration("notebook: the engine's state of a cell", "metadata")
def _(copy):
    copy.change_notebook(lambda node: author_cell(node)["metadata"]["libsafe_nb"].update(status="skipped"))


@alteration("notebook: papermill's state of a cell", "metadata")
def _(copy):
    copy.change_notebook(lambda node: author_cell(node)["metadata"]["papermill"].update(status="failed"))


@alteration("notebook: a key pasted into a cell, everything made anew", "secrets")
def _(copy):
    source = 'key_user = "9f8a7c6b5d4e3f2a1b0c9d8e7f6a5b4c"'
    copy.change_notebook(lambda node: set_source(node, source), also=all_hashes)


# Parameters


@alteration("parameter: in the executed cell", "parameters")
def _(copy):
    def change(node):
        cell = injected(node)
        cell["source"] = ["".join(cell["source"]).replace("limit = 5", "limit = 6")]

    copy.change_notebook(change, also=cell_hashes)


@alteration("parameter: code put into the executed cell", "parameters")
def _(copy):
    def change(node):
        injected(node)["source"] = ["".join(injected(node)["source"]), "\nprint(1)"]

    copy.change_notebook(change, also=cell_hashes)


@alteration("parameter: in papermill's account", "parameters")
def _(copy):
    copy.change_notebook(lambda node: node["metadata"]["papermill"]["parameters"].update(limit=6))


alteration("parameter: in the record, the payload's digest left", "payload")(
    lambda c: c.change_record(lambda body: body["payload"]["function_params"].update(limit=6))
)


def payload_anew(body: dict) -> None:
    body["payload_sha256"] = digest(canonical(body["payload"]))


@alteration("parameter: in the record, the payload's digest made anew", "parameters")
def _(copy):
    copy.change_record(lambda body: (body["payload"]["function_params"].update(limit=6), payload_anew(body)))


# Status, times, and other fields of the record


@alteration("status: failed made completed", "status")
def _(copy):
    copy.change_record(lambda body: body.update(status="completed", cause=None, error=None), FAILED)


@alteration("status: failed made completed, the cells too, and all descriptions", "metadata")
def _(copy):
    def change(body):
        body.update(status="completed", cause=None, error=None)
        for cell in body["cells"]:
            cell.update(status="completed", cause=None)

    copy.change_record(change, FAILED)
    copy.describe(FAILED)


@alteration("status: completed made failed", "status")
def _(copy):
    copy.change_record(lambda body: body.update(status="failed"))


alteration("status: a word of one's own", "status")(
    lambda c: c.change_record(lambda body: body.update(status="fine"))
)
alteration("status: the function told the job that it failed", "status")(
    lambda c: c.change_record(lambda body: body.update(job_result=False))
)
alteration("status: a cell after the one that failed was run", "status")(
    lambda c: c.change_record(lambda body: body["cells"][-1].update(status="completed"), FAILED)
)
alteration("error: another message", "metadata")(
    lambda c: c.change_record(lambda body: body["error"].update(message="bad luck"), FAILED)
)
alteration("error: taken away", "crate")(
    lambda c: c.change_record(lambda body: body.update(error=None), FAILED)
)
alteration("time: the end before the start", "times")(
    lambda c: c.change_record(lambda body: body.update(ended="2001-01-01T00:00:00.000+00:00"))
)
alteration("time: of a cell", "metadata")(
    lambda c: c.change_record(lambda body: body["cells"][0].update(started=body["started"]))
)
alteration("time: the start, a second earlier", "place")(
    lambda c: c.change_record(lambda body: body.update(started="2020-01-01T00:00:00.000+00:00"))
)


@alteration("time: the start, with folder, descriptions and chain", "start")
def _(copy):
    folder = copy.folders()[0]
    folder.rename(folder.with_name(f"20200101T000000000Z-{folder.name.partition('-')[2]}"))
    copy.change_record(lambda body: body.update(started="2020-01-01T00:00:00.000+00:00"))
    copy.describe(0)


@alteration("time: without an offset", "times")
def _(copy):
    copy.change_record(lambda body: body.update(ended=body["ended"].removesuffix("+00:00")))


alteration("start record: taken away", "start")(lambda c: c.start().unlink())
alteration("start record: another job", "start")(
    lambda c: c.start().write_bytes(canonical({**json.loads(c.start().read_bytes()), "job": "999"}))
)
alteration("record: another user", "payload")(
    lambda c: c.change_record(lambda body: body["agent"]["user"].update(id="999"))
)
alteration("record: another job", "payload")(
    lambda c: c.change_record(lambda body: body["job"].update(id="999"))
)
alteration("record: another function's notebook", "start")(
    lambda c: c.change_record(lambda body: body["function"].update(notebook_sha256="0" * 64))
)


@alteration("record: the function's version, everything made anew", "head")
def _(copy):
    copy.change_record(lambda body: body["function"].update(version="9.9.9"))
    copy.describe(0)


alteration("record: a field taken out", "record")(lambda c: c.change_record(lambda body: body.pop("error")))
alteration("record: another schema", "record")(
    lambda c: c.change_record(lambda body: body.update(schema="x/1"))
)
alteration("record: taken away", "record")(lambda c: (c.folders()[0] / "record.json").unlink())


@alteration("record: other white space, the sums and the chain made anew", "record")
def _(copy):
    place = copy.folders()[0] / "record.json"
    place.write_bytes(json.dumps(copy.record(), indent=1).encode())
    copy.sum(place.parent)
    copy.link()


# Inputs, outputs, environment, messages


def entry(body: dict, **change) -> None:
    body["inputs"][0].update(change)


alteration("input: its digest in the record", "crate")(
    lambda c: c.change_record(lambda body: entry(body, sha256="0" * 64))
)
alteration("input: its size in the record", "premis")(
    lambda c: c.change_record(lambda body: entry(body, size=7))
)
alteration("input: taken out of the record", "crate")(
    lambda c: c.change_record(lambda body: body["inputs"].clear())
)
alteration("output: its digest in the record", "crate")(
    lambda c: c.change_record(lambda body: body["outputs"][0].update(sha256="0" * 64))
)
alteration("output: its size in the record", "premis")(
    lambda c: c.change_record(lambda body: body["outputs"][0].update(size=7))
)
alteration("output: taken out of the record", "crate")(
    lambda c: c.change_record(lambda body: body["outputs"].clear())
)
alteration("output: put into the record", "premis")(
    lambda c: c.change_record(
        lambda body: body["outputs"].append(
            {
                "path": "/new.txt",
                "version_id": "1",
                "size": 1,
                "sha256": "0" * 64,
                "scan": None,
                "format": None,
            }
        )
    )
)
alteration("environment: a package, the sums made anew", "environment")(
    lambda c: c.change_json("environment.json", lambda body: body["packages"][0].update(version="0.0.0"))
)


@alteration("environment: a package, the record's digest of the file made anew", "environment")
def _(copy):
    copy.change_json("environment.json", lambda body: body["packages"][0].update(version="0.0.0"))
    data = (copy.folders()[0] / "environment.json").read_bytes()
    copy.change_record(lambda body: body["env"].update(packages_sha256=digest(data)))


alteration("environment: Python in the record", "environment")(
    lambda c: c.change_record(lambda body: body["env"].update(python="2.7.18"))
)


@alteration("messages: one taken out, the sums made anew", "messages")
def _(copy):
    (copy.folders()[0] / "messages.jsonl").write_bytes(b"")
    copy.sum(copy.folders()[0])
    copy.link()


# Descriptions against the record


def action(graph: dict) -> dict:
    """The run's: other actions are of single files."""
    return next(each for each in graph["@graph"] if each["@type"] == "CreateAction")


def crated(change: Callable[[dict], object], number: int = 0):
    return lambda copy: copy.change_json("ro-crate-metadata.json", change, number)


alteration("crate: startTime", "crate")(
    crated(lambda g: action(g).update(startTime="2020-01-01T00:00:00.000+00:00"))
)
alteration("crate: the action failed", "crate")(
    crated(lambda g: action(g).update(actionStatus="http://schema.org/FailedActionStatus"))
)
alteration("crate: the action taken out", "crate")(crated(lambda g: g["@graph"].remove(action(g))))
alteration("crate: the error taken out", "crate")(crated(lambda g: action(g).pop("error"), FAILED))
alteration("crate: a file's digest", "crate")(
    crated(lambda g: next(e for e in g["@graph"] if e["@id"] == "executed.ipynb").update(sha256="0" * 64))
)


def events(root: ElementTree.Element, name: str) -> ElementTree.Element:
    """The first `name` of the event that is the run."""
    for event in root.iterfind(".//{*}event"):
        if event.findtext("{*}eventType") in ("execution", "exe"):
            return event.find(f".//{{*}}{name}")
    raise AssertionError("no event")


alteration("premis: the outcome", "premis")(
    lambda c: c.change_premis(lambda root: setattr(events(root, "eventOutcome"), "text", "success"), FAILED)
)
alteration("premis: the time", "premis")(
    lambda c: c.change_premis(lambda root: setattr(events(root, "eventDateTime"), "text", "2020-01-01"))
)
alteration("premis: the event is another run's", "premis")(
    lambda c: c.change_premis(
        lambda root: setattr(events(root, "eventIdentifierValue"), "text", "urn:uuid:0")
    )
)
alteration("premis: a fixity", "premis")(
    lambda c: c.change_premis(lambda root: setattr(root.find(".//{*}messageDigest"), "text", "0" * 64))
)
alteration("premis: no XML", "premis")(
    lambda c: ((c.folders()[0] / "premis.xml").write_bytes(b"<premis"), c.sum(c.folders()[0]), c.link())
)

# Sums


def sums_of(copy: Copy) -> Path:
    return copy.folders()[0] / evidence.SUMS


alteration("sums: taken away", "sums")(lambda c: sums_of(c).unlink())
alteration("sums: an extra file in the folder", "sums")(lambda c: (c.folders()[0] / "x.txt").write_text("x"))
alteration("sums: a file taken away", "sums")(lambda c: (c.folders()[0] / "messages.jsonl").unlink())
alteration("sums: a line taken out, the chain made anew", "sums")(
    lambda c: (sums_of(c).write_bytes(sums_of(c).read_bytes().split(b"\n", 1)[1]), c.link())
)
alteration("sums: a line that is none, the chain made anew", "sums")(
    lambda c: (sums_of(c).write_bytes(sums_of(c).read_bytes() + b"# nothing\n"), c.link())
)
alteration("sums: a line twice, the chain made anew", "sums")(
    lambda c: (
        sums_of(c).write_bytes(sums_of(c).read_bytes().split(b"\n")[0] + b"\n" + sums_of(c).read_bytes()),
        c.link(),
    )
)

# Chain


def change_link(copy: Copy, number: int, **change) -> None:
    place = copy.links()[number]
    place.write_bytes(canonical({**json.loads(place.read_bytes()), **change}))


def remove(copy: Copy, number: int, *, start: bool) -> None:
    if start:
        copy.start(number).unlink()
    shutil.rmtree(copy.folders()[number])


alteration("chain: a link deleted from the middle", "chain")(lambda c: c.links()[1].unlink())
alteration("chain: the first link deleted", "chain")(lambda c: c.links()[0].unlink())
alteration("chain: the last link deleted", "link")(lambda c: c.links()[-1].unlink())
alteration("chain: all links deleted", "link")(lambda c: shutil.rmtree(c.root / "provenance/chain"))
alteration("chain: another prev", "chain")(lambda c: change_link(c, 1, prev="0" * 64))
alteration("chain: another seq", "chain")(lambda c: change_link(c, 1, seq=7))
alteration("chain: a field more", "chain")(lambda c: change_link(c, 2, note="x"))
alteration("chain: a record's digest", "link")(lambda c: change_link(c, 2, record_sha256="0" * 64))
alteration("chain: another run", "link")(lambda c: change_link(c, 2, run="0"))
alteration("chain: a link that is not canonical", "chain")(
    lambda c: c.links()[2].write_bytes(json.dumps(json.loads(c.links()[2].read_bytes()), indent=1).encode())
)


@alteration("chain: two links change places", "chain")
def _(copy):
    one, two = copy.links()[:2]
    first, second = json.loads(one.read_bytes()), json.loads(two.read_bytes())
    one.write_bytes(canonical({**second, "seq": 1, "prev": None}))
    two.write_bytes(canonical({**first, "seq": 2, "prev": digest(one.read_bytes())}))


@alteration("chain: two links change places, the rest made anew", "head")
def _(copy):
    links = [json.loads(each.read_bytes()) for each in copy.links()]
    links[0], links[1] = links[1], links[0]
    prev = None
    for seq, (place, body) in enumerate(zip(copy.links(), links, strict=True), 1):
        place.write_bytes(canonical({**body, "seq": seq, "prev": prev}))
        prev = digest(place.read_bytes())


@alteration("chain: a record put in, the chain made anew", "record")
def _(copy):
    folder = copy.folders()[0]
    shutil.copytree(folder, folder.with_name(folder.name + "0"))
    copy.link()


@alteration("chain: a record put in without a link", "link")
def _(copy):
    folder = copy.folders()[0]
    shutil.copytree(folder, folder.with_name(folder.name + "0"))


alteration("chain: a record deleted", "link")(lambda c: remove(c, 1, start=True))
alteration("chain: a record deleted, the chain made anew", "start")(
    lambda c: (remove(c, 1, start=False), c.link())
)
alteration("chain: a record and its start deleted, the chain made anew", "head")(
    lambda c: (remove(c, 1, start=True), c.link())
)
alteration("chain: the tail cut off, with its record", "start")(
    lambda c: (remove(c, 2, start=False), c.links()[-1].unlink())
)
alteration("chain: the tail cut off, with its record and start", "head")(
    lambda c: (remove(c, 2, start=True), c.links()[-1].unlink())
)


@alteration("everything deleted", "record")
def _(copy):
    shutil.rmtree(copy.root / "provenance")


# Signature and time stamp: here the links were signed and stamped before, and the verifier has key and certificate


def signed(name: str, told_by: str = "signature"):
    return alteration(name, told_by, signed=True)


def envelopes(copy: Copy) -> list[Path]:
    return sorted(copy.root.glob("provenance/chain/*.dsse.json"))


def stamps(copy: Copy) -> list[Path]:
    return sorted(copy.root.glob("provenance/chain/*.tsr"))


def change_payload(copy: Copy) -> None:
    """Say something else of the record, and leave the signature."""
    place = envelopes(copy)[0]
    body = json.loads(place.read_bytes())
    statement = json.loads(base64.b64decode(body["payload"]))
    statement["predicate"] = {"approved": True}
    body["payload"] = base64.b64encode(canonical(statement)).decode()
    place.write_bytes(canonical(body))


signed("signature: by another key")(lambda c: c.attest(key=c.witnesses.stranger, numbers=[1]))
signed("signature: of another link")(lambda c: envelopes(c)[0].write_bytes(envelopes(c)[1].read_bytes()))
signed("signature: its statement altered")(change_payload)
signed("signature: no envelope")(lambda c: envelopes(c)[0].write_bytes(b"{}"))
signed("signature: a huge envelope")(lambda c: envelopes(c)[0].write_bytes(b" " * 1_000_000))
signed("signature: taken away")(lambda c: envelopes(c)[1].unlink())
signed("signature: all taken away")(lambda c: [each.unlink() for each in envelopes(c)])


@signed("signature: a record's output and everything made anew, signed by the attacker")
def _(copy):
    copy.change_notebook(set_output)
    copy.attest(key=copy.witnesses.stranger, authority=copy.witnesses.other)


@signed("signature: a record's output and everything made anew, the old signatures put back")
def _(copy):
    kept = {each: each.read_bytes() for each in [*envelopes(copy), *stamps(copy)]}
    copy.change_notebook(set_output)
    for place, data in kept.items():
        place.write_bytes(data)


@signed("signature: a record's output and everything made anew, not signed")
def _(copy):
    copy.change_notebook(set_output)


@signed("chain: the tail cut off, with its record and start, the signature left")
def _(copy):
    remove(copy, 2, start=True)
    copy.links()[-1].unlink()


signed("time stamp: of another link", "timestamp")(
    lambda c: stamps(c)[0].write_bytes(stamps(c)[1].read_bytes())
)
signed("time stamp: by another authority", "timestamp")(
    lambda c: c.attest(authority=c.witnesses.other, numbers=[1])
)


@signed("time stamp: an earlier time", "timestamp")
def _(copy):
    place = stamps(copy)[0]
    data = place.read_bytes()
    year = f"\x18\x0f{datetime.now(UTC):%Y}".encode()
    assert data.count(year) == 1
    place.write_bytes(data.replace(year, b"\x18\x0f2020"))


signed("time stamp: taken away", "timestamp")(lambda c: stamps(c)[1].unlink())
signed("time stamp: no time stamp", "timestamp")(lambda c: stamps(c)[0].write_bytes(b"0" * 900))
