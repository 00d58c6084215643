"""Runs that stand for later ones: what makes two runs the same, and what is looked at before one is believed."""

from __future__ import annotations

import contextlib
import json
from typing import ClassVar

import jsonschema
import nbformat
import pytest
from conftest import REQUEST, takes, write_function
from engine_runs import wait_for
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell
from test_calls import publish_to, read
from test_record_schema import SCHEMA

import libsafe_nb
from libsafe_nb import environment, errors, fingerprint, local, record, reuse
from libsafe_nb import notebook as notebook_
from libsafe_nb.connection import connect
from libsafe_nb.fingerprint import of_environment, of_work

GLUE = """
from IPython.display import display
def glue(name, data):
    display({"application/scrapbook.scrap.json+json": {"name": name, "data": data, "encoder": "json", "version": 1}}, raw=True)
"""


class Code:
    code_sha256, language, kernel_name, is_handler = "a" * 64, "python", "python3", False
    metadata: ClassVar[dict] = {}
    tags: ClassVar[list] = [[], ["parameters"]]

    def __init__(self, **changes):
        vars(self).update(changes)


FILES = [
    {"id": "1", "fullpath": "/a", "version_id": "v1", "size": 1},
    {"id": "2", "fullpath": "/b", "version_id": "v2", "size": 2},
]


def work(function=None, **changes):
    return of_work(
        function or Code(), **{"secrets": (), "container": "1", "params": {"x": 1}, "files": FILES, **changes}
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values), st.dictionaries(st.text(), json_values))
def test_params_have_the_same_digest_exactly_if_their_json_is_the_same(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

    assert (work(params=one).params == work(params=other).params) is same
    assert work(params=dict(reversed(one.items()))).key == work(params=one).key


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (0, False), (0.0, -0.0), (2**60, str(2**60)), ("\ud800", "?"), ([], {})],
)
def test_values_that_a_function_tells_apart_are_told_apart(one, other):
    assert work(params={"x": one}).params != work(params={"x": other}).params


@pytest.mark.parametrize(
    "changes",
    [
        {"function": Code(code_sha256="b" * 64)},
        {"function": Code(kernel_name="other")},
        {"function": Code(is_handler=True)},
        {"function": Code(tags=[["raises-exception"], ["parameters"]])},
        {"function": Code(tags=[["parameters"], []])},
        {"container": "2"},
        {"params": {}},
        {"files": FILES[::-1]},
        {"files": FILES[:1]},
        {"files": [FILES[0], {**FILES[1], "version_id": "v3"}]},
        {"files": [FILES[0], {**FILES[1], "fullpath": "/c"}]},
    ],
)
def test_what_changes_the_work_changes_its_key(changes):
    assert work(**changes).why is None
    assert work(**changes).key != work().key


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"function": Code(metadata={"volatile": ["time", "network"]})}, "declared volatile: network, time"),
        ({"function": Code(metadata={"volatile": True})}, "the function is declared volatile"),
        ({"function": Code(metadata={"volatile": {"patterns": ["x"]}})}, "declared volatile: patterns"),
        ({"function": Code(tags=[["volatile"]])}, "a cell of the function is tagged volatile"),
        ({"secrets": ["token"]}, "secret parameters: token"),
        ({"params": {"token": {"$secret": "token"}}}, "secret parameters: token"),
        ({"files": [{**FILES[0], "version_id": None}]}, "/a has no version"),
    ],
)
def test_what_nobody_can_compare_has_no_fingerprint_and_says_why(changes, why):
    assert why in work(**changes).why


@given(st.sets(st.sampled_from(["jupyter-core", "numpy", "rich", "nbclient", "pandas"])), st.booleans())
def test_a_package_declared_irrelevant_changes_nothing_and_any_other_does(changed, named):
    names = ["jupyter-core", "nbclient", "numpy", "pandas", "rich"]
    surroundings = {
        "packages": [{"name": each, "version": "1"} for each in names],
        "python": {},
        "platform": "p",
    }
    after = [{"name": each, "version": "2" if each in changed else "1"} for each in names]
    patterns = ["Jupyter_*", "rich"] if named else []
    seen = changed - ({"jupyter-core", "rich"} if named else set())

    same = of_environment(surroundings, patterns) == of_environment(
        {**surroundings, "packages": after}, patterns
    )
    assert same is not bool(seen)


def test_an_environment_that_nobody_knows_has_no_digest_and_variables_and_python_count():
    known = environment.complete(environment.take(), None)

    assert of_environment(environment.complete(environment.unknown(), None)) is None
    for name in ("python", "platform", "image", "env_vars"):
        assert of_environment({**known, name: {"other": "one"}}) != of_environment(known)


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "create", "target": "container"},
        {"kind": "call", "method": "POST"},
        {"kind": "delete", "file_id": "9"},
        {"kind": "child", "key": "k"},
        {"kind": "failure", "effect": {}},
        {"kind": "write", "stubbed": True},
        {"kind": "read", "file_id": "1", "version_id": "v9"},
        {"kind": "read", "file_id": "7", "version_id": None},
    ],
)
def test_what_a_run_did_may_speak_against_its_reuse(event):
    surroundings = environment.complete(environment.take(), None)
    told = work().to_json()
    plain = fingerprint.of_run(
        told, surroundings, [{"kind": "read", "file_id": "1", "version_id": "v1"}], FILES, replay=False
    )
    found = fingerprint.of_run(told, surroundings, [event], FILES, replay=False)

    assert plain["sha256"] == work().whole(plain["environment_sha256"])
    assert fingerprint.of_record({"fingerprint": plain}) == work()
    assert found["sha256"] is None
    assert found["why"]
    assert fingerprint.of_run(told, surroundings, [], FILES, replay=True)["why"] == "it is a replay"
    assert fingerprint.of_run(None, surroundings, [], FILES, replay=False)["sha256"] is None


def test_a_kernels_environment_is_known_before_it_runs(run, notebook, stored):
    done = run(notebook("print(1)"))

    assert reuse.take("python3") == json.loads(stored(done, "environment.json"))


# Workflows --------------------------------------------------------------------------------------------------------

FILES_API = "from libnova.com.Api import File as Files\nfrom libnova.com.Filesystem import S3\n"
UPPER = f"""{REQUEST}{FILES_API}{GLUE}
for file in request.Files:
    text = S3.File.get_stream(request.Storage, file).read().decode().upper()
    File.set_hash(file.id, "sha256", "{{:064x}}".format(len(text)))
    Files.write(json_sample["function_data"]["container"]["id"], file.fullpath.replace("/in/", "/upper/"), text)
    glue("length", len(text))
"""
JOIN = f"""{REQUEST}{FILES_API}
text = "".join(S3.File.get_stream(request.Storage, file).read().decode() for file in request.Files)
Files.write(json_sample["function_data"]["container"]["id"], json_sample["function_params"]["to"], text)
"""
WORKFLOW = """
import libsafe_nb
keys, count = json_sample["function_params"]["keys"], json_sample["function_params"]["count"]
names = [f"{number:03d}.txt" for number in range(count)]
uppers = [libsafe_nb.call(keys["upper"], files=f"/in/{name}", reuse="unchanged") for name in names]
lengths = [each.result().raise_for_failure().scraps["length"] for each in uppers]
def join(key, files, to):
    return libsafe_nb.call(key, files=files, params={"to": to}, reuse="unchanged")
all_ = join(keys["join"], [f"/upper/{name}" for name in names], "/all.txt")
few = join(keys["few"], [f"/upper/{name}" for name in names[:4]], "/few.txt")
all_.result().raise_for_failure(), few.result().raise_for_failure()
join(keys["few"], ["/all.txt"], "/last.txt").result().raise_for_failure()
print(lengths)
"""


class Flow:
    """A workflow over some inputs, on a platform whose kernels' packages the test chooses."""

    def __init__(self, settings, packages, folder, count):
        self.settings, self.packages, self.folder, self.count = settings, packages, folder, count
        self.connection = connect(settings=settings)
        self.container = self.connection.client.create_container("reuse")["id"]
        self.keys = {
            "upper": self.publish("upper", UPPER),
            "join": self.publish("join", JOIN),
            "few": self.publish("few", f"{JOIN}# another one"),
        }
        self.workflow = write_function(folder / "workflow.ipynb", WORKFLOW, parameters=takes("keys", "count"))
        for number in range(count):
            self.put(number, f"text {number}\n")

    def publish(self, name, code):
        described = {"libsafe": {"irrelevant_packages": ["irrelevant*"]}}
        return publish_to(
            self.settings, self.folder, code, key=f"reuse-{name}", parameters=takes("to"), metadata=described
        )

    def put(self, number, text):
        path = f"/in/{number:03d}.txt"
        put = self.connection.storage.put(self.container, path, text.encode())
        wait_for(lambda: self.version(path) == put.version_id, 20)

    def version(self, path):
        with contextlib.suppress(errors.NotFound):
            return self.connection.client.file_by_path(self.container, path)["version_id"]

    def package(self, name, version):
        for each in self.packages.glob(f"{name}-*"):
            each.rmdir()
        (self.packages / f"{name}-{version}.dist-info").mkdir()

    def run(self):
        params = {"keys": self.keys, "count": self.count}
        done = libsafe_nb.run(
            None, self.workflow, container=self.container, params=params, settings=self.settings
        )
        self.evidence = done.raise_for_failure().evidence
        self.record = json.loads(read(self.connection, self.evidence))
        return self.record["calls"]

    def ran(self):
        """The numbers of the calls that were not reused, of a further run."""
        return [each["number"] for each in self.run() if not each["reused"]]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder of packages that the kernels of `flows` and this process have."""
    folder = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield folder


@pytest.fixture(scope="module")
def served(home, packages, tmp_path_factory):
    with local.serve(tmp_path_factory.mktemp("reuse")) as served:
        yield served


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_only_what_depends_on_a_change_runs_again(count, served, packages, tmp_path):
    flow = Flow(served.settings, packages, tmp_path, count)
    everything = list(range(1, count + 4))
    joined, last = count + 1, count + 3
    flow.package("relevant", 1)

    assert flow.ran() == everything
    first = flow.record["calls"]
    assert flow.ran() == []
    for before, now in zip(first, flow.record["calls"], strict=True):
        assert (now["reused"], now["run"], now["fingerprint"]) == (
            before["evidence"],
            before["run"],
            before["fingerprint"],
        )
        assert (now["call"], now["status"], now["outputs"]) == (None, "completed", before["outputs"])
        child = json.loads(read(flow.connection, now["evidence"]))
        assert child["fingerprint"]["sha256"] == now["fingerprint"]
    jsonschema.Draft202012Validator(SCHEMA).validate(flow.record)
    flow.put(5, "another text\n")
    assert flow.ran() == [6, joined, last]
    flow.put(5, "ANOTHER text\n")
    # What it makes of it is the same.
    assert flow.ran() == [6]
    flow.keys["join"] = flow.publish("join", JOIN + "print('new')")
    assert flow.ran() == [joined]
    flow.keys["join"] = flow.publish("join", JOIN.replace('["to"], text)', '["to"], text + "joined")'))
    assert flow.ran() == [joined, last]
    flow.package("irrelevant-one", 2)
    assert flow.ran() == []
    flow.package("relevant", 2)
    assert flow.ran() == everything
    assert "had another environment" in flow.record["calls"][0]["not_reused"]
    assert flow.ran() == []
    if count < 100:
        found = libsafe_nb.verify(flow.evidence, deep=True, settings=flow.settings)
        assert (found.exit_code, found.checks) == (0, ())
        whole = libsafe_nb.verify(flow.container, settings=flow.settings)
        assert (whole.exit_code, whole.checks) == (0, ())


# What is looked at before a run is believed -------------------------------------------------------------------------

EFFECTS = f"""{REQUEST}{FILES_API}
container = json_sample["function_data"]["container"]["id"]
rules = Files.get_by_path(container, "rules.txt")
text = S3.File.get_stream(request.Storage, rules).read().decode()
for file in request.Files:
    Files.set_hash(file.id, "md5", "{{:032x}}".format(7))
    Files.set_metadata(file.id, [{{"iecode": "title", "value": "first", "action": "add"}}])
Files.write(container, "/made.txt", text)
"""


def test_a_run_whose_evidence_or_effects_are_not_as_it_left_them_is_not_reused(
    platform, connection, functions, publish, container, run, tmp_path
):
    key = publish(EFFECTS)
    storage, client = connection.storage, connection.client
    versions = {name: storage.put(container, name, b"text").version_id for name in ("rules.txt", "in.txt")}

    def known(name, version):
        with contextlib.suppress(errors.NotFound):
            return client.file_by_path(container, name)["version_id"] == version

    for name, version in versions.items():
        wait_for(lambda name=name, version=version: known(name, version), 20)
    file = client.file_by_path(container, "in.txt")["id"]

    def find(files=(file,), **options):
        found = reuse.Reuse(lambda: client, storage).find(key, container=container, files=files, **options)
        return found.earlier.facts["run"] if found.earlier else found.why

    assert find() == "no earlier run of it is known"
    # An ordinary run of the same file, by hand.
    done = run(tmp_path / f"{key}.ipynb", files=[file]).raise_for_failure()
    folder = done.evidence.removeprefix(f"libsafe://{container}/")
    assert find() == find(files=["/in.txt"]) == find(version=1) == done.run
    assert "no earlier run" in find(files=["/rules.txt"])
    names = ("record.json", "messages.jsonl", "executed.ipynb", "SHA256SUMS")
    originals = {name: storage.get(container, folder + name) for name in names}
    for changed, back, why in (
        (
            lambda: client.set_hash(file, "md5", f"{8:032x}"),
            lambda: client.set_hash(file, "md5", f"{7:032x}"),
            "the md5 of file",
        ),
        (
            lambda: client.set_metadata(file, [{"iecode": "title", "value": "other", "action": "add"}]),
            lambda: client.set_metadata(file, [{"iecode": "title", "value": "other", "action": "remove"}]),
            "metadata of file",
        ),
        *(
            (
                lambda name=name: storage.put(container, folder + name, b"{}"),
                lambda name=name: storage.put(container, folder + name, originals[name]),
                why,
            )
            for name, why in (
                ("record.json", "record.json is not the one that was left"),
                ("messages.jsonl", "its evidence is not as it was left"),
                ("executed.ipynb", "its evidence is not as it was left"),
                ("SHA256SUMS", "its evidence is not as it was left"),
            )
        ),
    ):
        changed()
        assert why in find()
        back()
        assert find() == done.run
    client.set_metadata(file, [{"iecode": "other", "value": "is nothing of its"}])
    assert find() == done.run
    storage.put(container, "rules.txt", b"other rules")
    assert "/rules.txt of container" in find()
    assert "has another version by now" in find()
    again = run(tmp_path / f"{key}.ipynb", files=[file]).raise_for_failure()
    assert find() == again.run
    storage.delete(container, "made.txt")
    assert "/made.txt of container" in find()
    (link,) = [each for each in storage.list(container, "provenance/chain/") if each.path.endswith("2.json")]
    storage.put(container, link.path, b"{}")
    assert "its evidence is not as it was left: changed  provenance/chain/00000002.json" in find()


def test_an_odd_object_in_the_place_of_a_hint_is_a_reason_to_run(publish, connection, container):
    key = publish("print(1)")
    seeker = reuse.Reuse(lambda: connection.client, connection.storage)
    (at,) = {seeker._wanted(key, container, (), None, None)[0].key}
    hint = {
        "schema": reuse.SCHEMA,
        "evidence": "provenance/f/x/",
        "run": "r",
        "record_sha256": record.digest(b""),
    }
    odd = (b"[" * 100_000, b"{", b"[]", b'{"evidence": 1}', record.canonical(hint)[:-1] + b', "link": 1e999}')
    for data in odd:
        connection.storage.put(container, f"{reuse.FOLDER}/{at}/1.json", data)
        found = seeker.find(key, container=container, files=())
        assert found.earlier is None
        assert found.why


def test_tags_of_the_authors_code_cells_are_told_whatever_else_a_notebook_holds():
    cells = [
        new_markdown_cell("x", metadata={"tags": ["no-code"]}),
        new_code_cell("1", metadata={"tags": ["b", "a"]}),
        new_code_cell("2", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("3"),
    ]
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells))

    assert notebook_.parse(text.encode(), name="f.ipynb").tags == (("b", "a"), ())


def test_a_call_that_cannot_be_compared_says_why_and_is_run(publish, functions, connection, container):
    storage, client = connection.storage, connection.client
    volatile = publish("print(1)", metadata={"libsafe": {"volatile": "time"}})
    secret = publish("print(1)", parameters="json_sample = {}\ntoken: 'Secret' = ''")
    other = publish(
        "x <- 1", metadata={"kernelspec": {"name": "bash", "display_name": "Bash", "language": "bash"}}
    )
    disabled = publish("print(1)")
    functions.update(disabled, enabled=False)
    found = {
        each: reuse.Reuse(lambda: client, storage).find(each, container=container, files=())
        for each in (volatile, secret, other, disabled, "absent")
    }

    assert [each.earlier for each in found.values()] == [None] * 5
    assert [each.fingerprint for each in found.values()] == [None] * 5
    assert found[volatile].why == "the function is declared volatile: time"
    assert found[secret].why == "it takes secret parameters: token"
    assert "environment" in found[other].why
    assert "is disabled" in found[disabled].why
    assert "no function 'absent'" in found["absent"].why
