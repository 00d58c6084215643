"""
The leak lab: real notebooks on a real platform let keys out in every way of `leaks`; then all that is left is searched.

What is searched: every version of every object, job messages and results, all files of the local platform and of the
runs, and what the program prints. The search, `leak_search`, shares no code with the one that is under test.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest
from environs import variables
from leak_search import Search
from leaks import AWS_LIKE, CASES, EIGHT, KNOWN_IMPOSSIBLE, LONG, NON_ASCII, QUOTES, SETUP
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

import libsafe_nb
from libsafe_nb import errors, local, redact
from libsafe_nb.connection import connect
from libsafe_nb.execution import Limits
from libsafe_nb.local.root import Root

PARAMETERS = 'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {}}'
SPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}
GROUPS = sorted({case.group for case in CASES.values()})

pytestmark = pytest.mark.timeout(600)


@dataclass
class Lab:
    """A platform with keys full of signs, and what the runs of all cases left there."""

    home: Path
    settings: object
    secrets: dict[str, str]
    container: str = ""
    books: dict[str, dict] = field(default_factory=dict)
    runs: dict[str, libsafe_nb.Run] = field(default_factory=dict)
    printed: dict[str, bytes] = field(default_factory=dict)

    @property
    def search(self):
        return Search(self.secrets)

    def payload(self, **api):
        return {
            "api": {
                "url": self.settings.url,
                "key_user": AWS_LIKE,
                "key_root": QUOTES,
                "key_long": LONG,
                "key_wide": NON_ASCII,
                "key_short": EIGHT,
                **api,
            },
            "url": self.settings.url,
            "s3": self.settings.s3.endpoint,
            "function_data": {"container": {"id": self.container}},
            "function_params": {},
        }

    def cell(self, name):
        cells = self.books[CASES[name].group]["cells"]
        return next(cell for cell in cells if cell["metadata"].get("case") == name)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIBSAFE_NB_HOME", str(home))
        patch.setenv("LIBSAFE_KEY_USER", AWS_LIKE)
        patch.setenv("LIBSAFE_KEY_ROOT", QUOTES)
        with local.serve(home / "platform") as served:
            patch.delenv("LIBSAFE_KEY_USER")
            patch.delenv("LIBSAFE_KEY_ROOT")
            secrets = {
                "key_user": AWS_LIKE,
                "key_root": QUOTES,
                "key_long": LONG,
                "key_wide": NON_ASCII,
                "key_short": EIGHT,
                "s3": served.settings.s3.secret_key,
            }
            assert (served.settings.key_user, served.settings.key_root) == (AWS_LIKE, QUOTES)
            yield Lab(home, served.settings, secrets)


@pytest.fixture(scope="module")
def lab(platform, tmp_path_factory):
    """All cases have run, three notebooks at a time, and one more through the program itself."""
    folder = tmp_path_factory.mktemp("notebooks")
    connection = connect(settings=platform.settings)
    platform.container = connection.client.create_container("lab")["id"]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        paths = {group: written(folder, group) for group in GROUPS}
        paths["pasted"] = pasted(folder, platform.secrets)
        ran = {
            group: pool.submit(libsafe_nb.run, platform.payload(), path, settings=platform.settings)
            for group, path in paths.items()
        }
        printed = {
            kind: pool.submit(program, platform, folder, *arguments)
            for kind, arguments in {"json": ["--json"], "text": []}.items()
        }
        for group, each in ran.items():
            platform.runs[group] = done = each.result()
            prefix = done.evidence.removeprefix(f"libsafe://{done.container}/")
            platform.books[group] = json.loads(
                connection.storage.get(done.container, prefix + "executed.ipynb")
            )
        for kind, each in printed.items():
            platform.printed[kind] = each.result()
    return platform


def written(folder, group):
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(SETUP)]
    for name, case in CASES.items():
        if case.group == group:
            tags = ["raises-exception"] if case.raises else []
            cells.append(new_code_cell(case.source, metadata={"case": name, "tags": tags}))
    path = folder / f"{group}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": SPEC}), path)
    return path


def pasted(folder, secrets):
    """A notebook whose author has left the keys in it, in every place that a notebook has."""
    words = " ".join(secrets.values())
    attached = {"note.txt": {"text/plain": words}}
    cells = [
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(f"x = 1  # {words}"),
        new_markdown_cell(f"The keys are {words}", attachments=attached),
        new_raw_cell(words),
        new_code_cell("2", metadata={"keys": list(secrets.values()), "deep": {"a": {AWS_LIKE: 1}}}),
    ]
    path = folder / "pasted.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": SPEC, "title": words}), path)
    return path


def program(platform, folder, *options):
    """What `libsafe-nb run` prints where the last cell fails with a key in its message."""
    source = SETUP + "from libnova.com.Nuclio.Request import Request\n"
    source += (
        "r = Request(None, type('E', (), {'body': json.dumps(json_sample)})()); r.job_init(); r.log(key)\n"
    )
    source += "os.write(1, key.encode()); os.write(2, s3.encode()); subprocess.run(['echo', *every])\n"
    source += "print(every); raise ValueError(' '.join(every) + b64(key))"
    name = "program" + "".join(options)
    path, payload = folder / f"{name}.ipynb", folder / f"{name}.json"
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(source)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": SPEC}), path)
    payload.write_text(json.dumps(platform.payload()))
    environ = {
        **os.environ,
        **variables(platform.settings),
        "LIBSAFE_KEY_USER": AWS_LIKE,
        "LIBSAFE_KEY_ROOT": QUOTES,
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "libsafe_nb",
            "--debug",
            "run",
            str(path),
            "--payload",
            str(payload),
            *options,
        ],
        env=environ,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stdout + b"\n" + done.stderr


# The cases ------------------------------------------------------------------------------------------------------


def test_there_are_enough_cases():
    assert len(CASES) >= 40
    assert set(KNOWN_IMPOSSIBLE) <= set(redact.KNOWN_IMPOSSIBLE)


@pytest.mark.parametrize("name", CASES)
def test_no_key_is_stored(lab, name):
    """In the stored notebook's cell; a case whose code does not work would prove nothing."""
    cell, case = lab.cell(name), CASES[name]

    assert cell["execution_count"], "it did not run"
    # IPython prints a group of errors to stderr and sends no error.
    raised = any(each["output_type"] == "error" or "Traceback" in str(each) for each in cell["outputs"])
    assert raised is case.raises, cell["outputs"]
    assert lab.search(json.dumps(cell, ensure_ascii=False).encode(), tokens=case.tokens) == []
    if case.shown:
        assert "[redacted:" in str(cell["outputs"]) or "left out" in str(cell["outputs"])
    assert "STORED" not in str(cell["outputs"])


def test_no_version_of_an_object_holds_a_key(lab):
    connection = connect(settings=lab.settings)
    versions = list(connection.storage.versions(lab.container))
    found = {
        f"{each.path} {each.version_id}": hits
        for each in versions
        if (
            hits := [
                *lab.search(connection.storage.get(lab.container, each.path, version_id=each.version_id)),
                *lab.search(each.path.encode()),
            ]
        )
    }

    assert len(versions) > 20
    assert found == {}


def test_no_job_holds_a_key(lab):
    client = connect(settings=lab.settings).client
    jobs = {each["id"]: [client.job(each["id"]), *client.messages(each["id"])] for each in client.jobs()}
    found = {id: hits for id, told in jobs.items() if (hits := lab.search(json.dumps(told).encode()))}

    assert len(jobs) >= len(lab.runs) + len(lab.printed)
    assert any("[redacted:" in str(each) for each in jobs.values())
    assert found == {}


def test_no_file_of_the_platform_or_of_a_run_holds_a_key(lab):
    """But those three in which keys rest (contract 3)."""
    root = Root(lab.home / "platform")
    rest = {root.platform_file, root.s3_config}
    files = [each for each in lab.home.rglob("*") if each.is_file() and each not in rest]
    found = {
        str(each.relative_to(lab.home)): hits for each in files if (hits := lab.search(each.read_bytes()))
    }

    assert files
    assert found == {}
    assert not list((lab.home / "runs").iterdir())


@pytest.mark.parametrize("kind", ["json", "text"])
def test_the_program_prints_no_key(lab, kind):
    assert b"ValueError" in lab.printed[kind]
    assert lab.search(lab.printed[kind]) == []


# The control ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(lab, tmp_path_factory):
    """The same notebooks under papermill's own engine, given the keys as parameters."""
    import papermill

    folder = tmp_path_factory.mktemp("plain")
    payload = lab.payload(s3_secret=lab.secrets["s3"])
    books = {}
    for group in GROUPS:
        if group == "side":
            continue
        with warnings.catch_warnings(), contextlib.suppress(papermill.exceptions.PapermillExecutionError):
            warnings.simplefilter("ignore")
            papermill.execute_notebook(
                str(written(folder, group)),
                str(folder / f"{group}-out.ipynb"),
                parameters={"json_sample": payload},
                kernel_name="python3",
                progress_bar=False,
            )
        books[group] = json.loads((folder / f"{group}-out.ipynb").read_bytes())
    return dataclasses.replace(lab, books=books)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.shown])
def test_under_papermills_own_engine_it_leaks(plain, name):
    """By the same search: a case that it cannot find proves nothing when it finds nothing."""
    cell = plain.cell(name)

    assert plain.search(json.dumps(cell, ensure_ascii=False).encode(), tokens=CASES[name].tokens)


# While it runs --------------------------------------------------------------------------------------------------

HELD = (
    SETUP
    + """
import linecache
from pathlib import Path
def all_files(folder):
    return {str(p): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}
child = subprocess.Popen(['sleep', '5'])
grandchild = subprocess.run(['sh', '-c', 'cat /proc/self/environ /proc/$$/cmdline'], capture_output=True).stdout
import ipykernel, IPython
places = {
    'environ': Path('/proc/self/environ').read_bytes(), 'os.environ': repr(dict(os.environ)).encode(),
    'cmdline': Path('/proc/self/cmdline').read_bytes(),
    "child's environ": Path(f'/proc/{child.pid}/environ').read_bytes(),
    "child's cmdline": Path(f'/proc/{child.pid}/cmdline').read_bytes(), 'grandchild': grandchild,
    'connection file': Path(ipykernel.get_connection_file()).read_bytes(),
    'linecache': repr({k: v[2] for k, v in linecache.cache.items() if len(v) > 2 and 'ipykernel' in str(k) or 'ipython' in str(k)}).encode(),
    'history': repr(list(get_ipython().history_manager.get_range(raw=True)) + get_ipython().history_manager.input_hist_raw).encode(),
    'In': repr(In).encode(), 'profile': b''.join(all_files(get_ipython().profile_dir.location).values()),
    **all_files(Path.cwd().parent),
}
child.kill(); child.wait()
held = [name for name, data in places.items() for value in every if value.encode() in data]
print('LOOKED AT', len(places), 'HELD', held)
print('WORK', Path.cwd())
"""
)


def test_a_running_kernel_and_its_children_hold_no_key_where_others_look(platform, lab, notebook_of):
    done = libsafe_nb.run(lab.payload(), notebook_of(HELD), settings=lab.settings)

    told = output_text(lab, done)
    assert done.status == "completed", done.error
    assert "HELD []" in told
    assert int(told.split("LOOKED AT ")[1].split()[0]) >= 13


@pytest.fixture
def notebook_of(tmp_path):
    def notebook_of(*sources):
        cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
        path = tmp_path / "f.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": SPEC}), path)
        return path

    return notebook_of


def executed(lab, done):
    prefix = done.evidence.removeprefix(f"libsafe://{done.container}/")
    data = connect(settings=lab.settings).storage.get(done.container, prefix + "executed.ipynb")
    return json.loads(data)


def output_text(lab, done):
    return str([cell.get("outputs") for cell in executed(lab, done)["cells"]])


def test_where_output_is_cut_no_part_of_a_key_is_left(lab, notebook_of):
    """The filter comes before the limit: the other way round, half a key would pass it."""
    cells = [
        f"print('x' * {number} + (key + ' ') * 60 + 'y' * 700)\nprint(s3 * 60, file=sys.stderr)"
        for number in range(700, 740, 3)
    ]
    done = libsafe_nb.run(
        lab.payload(), notebook_of(SETUP, *cells), settings=lab.settings, limits=Limits(cell_output=2000)
    )

    text = "".join(
        "".join(each.get("text", ""))
        for cell in executed(lab, done)["cells"]
        for each in cell.get("outputs", ())
    )
    assert done.status == "completed", done.error
    assert "xxxx" in text
    for value in (lab.secrets["key_user"], lab.secrets["s3"]):
        assert not [value[at : at + 6] for at in range(len(value) - 5) if value[at : at + 6] in text]


# No false alarm -------------------------------------------------------------------------------------------------

INNOCENT = [
    "import hashlib\nfor n in range(4000): print(hashlib.sha256(b'%d' % n).hexdigest(), f'file{n}.tif')",
    "import uuid\nfor n in range(1, 2000): print(uuid.UUID(int=(n * 0x9E3779B97F4A7C15F39CC0605CEDC834) % 2**128))",
    (
        "import base64, hashlib\nfrom IPython.display import Image, HTML, JSON, display\n"
        "noise = hashlib.shake_256(b'x').digest(300_000)\n"
        "display({'image/png': base64.b64encode(b'\\x89PNG\\r\\n\\x1a\\n' + noise).decode(), 'text/plain': '<Figure>'}, raw=True)\n"
        "display({'image/jpeg': base64.encodebytes(b'\\xff\\xd8\\xff\\xe0' + noise).decode(), 'text/plain': 'x'}, raw=True)\n"
        "print(base64.b64encode(noise).decode())\nprint(noise.hex())"
    ),
    "import random\nr = random.Random(1)\nprint(''.join(r.choices('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=_-', k=500_000)))",
    "import json\nprint(json.dumps([{'id': n, 'näme': f'ключ {n} & <b>%20</b>', 'path': 'C:\\\\new\\\\x41'} for n in range(2000)]))",
    "print('\\x1b[32mINFO\\x1b[0m ' * 500)\nimport zlib, gzip\nprint(base64.b64encode(gzip.compress(noise[:50_000], mtime=0)).decode())\nzlib.compress(b'abc' * 1000)",
    "raise ValueError('key_user is missing, token expired, password=****')",
]


def test_innocent_outputs_are_stored_byte_for_byte_as_without_the_filter(lab, notebook_of, tmp_path):
    import papermill

    from libsafe_nb.execution import Execution

    path = notebook_of(*INNOCENT)
    done = libsafe_nb.run(lab.payload(), path, settings=lab.settings)
    with contextlib.suppress(errors.LibsafeError, papermill.exceptions.PapermillExecutionError):
        papermill.execute_notebook(
            str(path),
            None,
            engine_name="libsafe",
            kernel_name="python3",
            progress_bar=False,
            parameters={"json_sample": {}},
            execution=Execution(save_to=tmp_path / "out.ipynb", cwd=tmp_path),
        )

    filtered, unfiltered = executed(lab, done), json.loads((tmp_path / "out.ipynb").read_bytes())
    ours, theirs = outputs(filtered), outputs(unfiltered)
    assert len(ours) == len(INNOCENT)
    assert [len(json.dumps(each)) for each in ours] == [len(json.dumps(each)) for each in theirs]
    assert ours == theirs


def outputs(book):
    """Of the code cells after the parameters, streams joined as a reader sees them."""
    found = []
    for cell in book["cells"]:
        if cell["cell_type"] == "code" and not {
            "parameters",
            "injected-parameters",
            "papermill-error-cell-tag",
        } & set(cell["metadata"].get("tags", [])):
            found.append(
                [
                    {**each, "text": "".join(each["text"])} if "text" in each else each
                    for each in cell["outputs"]
                ]
            )
    return found


# Keys that work, and keys that are refused ------------------------------------------------------------------------------------------


def test_a_platforms_own_keys_of_512_and_of_8_characters_work(tmp_path, monkeypatch, notebook_of):
    """As the keys of the REST API themselves, which travel in a header."""
    monkeypatch.setenv("LIBSAFE_KEY_USER", LONG)
    monkeypatch.setenv("LIBSAFE_KEY_ROOT", EIGHT)
    cell = "key, root = json_sample['api']['key_user'], json_sample['api']['key_root']\nprint(len(key), key, root)"
    with local.serve(tmp_path / "platform") as served:
        monkeypatch.delenv("LIBSAFE_KEY_USER")
        monkeypatch.delenv("LIBSAFE_KEY_ROOT")
        done = libsafe_nb.run(None, notebook_of(cell), settings=served.settings)
        prefix = done.evidence.removeprefix(f"libsafe://{done.container}/")
        book = connect(settings=served.settings).storage.get(done.container, prefix + "executed.ipynb")

    assert done.status == "completed", done.error
    assert b"512 [redacted:key_user] [redacted:key_root]" in book
    assert Search({"user": LONG, "root": EIGHT})(book) == []


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("sev3n-7", "key_root: expected a key of at least 8 characters, found 7"),
        ("abcdabcdabcd", "key_root: expected a key of at least 5 different characters, found 4"),
        ("31415926535", "key_root: expected a key of digits only to have at least 12 of them, found 11"),
    ],
)
def test_a_key_that_cannot_be_told_from_ordinary_text_is_refused(lab, notebook_of, value, sentence):
    before = len(list(connect(settings=lab.settings).client.jobs()))

    with pytest.raises(errors.SettingsError, match=sentence):
        libsafe_nb.run(None, notebook_of("1"), settings=dataclasses.replace(lab.settings, key_root=value))
    assert len(list(connect(settings=lab.settings).client.jobs())) == before
