"""One real local platform for all tests, in a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import uuid
from pathlib import Path

import nbformat
import pytest
from environs import variables
from hypothesis import settings
from labs import lab
from nbformat.v4 import new_code_cell, new_notebook

import libsafe_nb
from libsafe_nb import local, publishing
from libsafe_nb.connection import connect
from libsafe_nb.functions import Functions

# The same examples each time: a run of the tests answers for the change at hand. New ones: --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


# A shell has what it starts in the background ignore Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config):
    """Three for two cores, which are idle a fifth of the time otherwise: tests wait for kernels and servers."""
    return max(1, len(os.sched_getaffinity(0)) * 3 // 2)


ROOT = Path(__file__).parent.parent
PARAMETERS = 'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {}}'


def takes(*names):
    """A parameters cell of a function that takes parameters of these names, of whatever type."""
    params = ", ".join(f'"{name}": None' for name in names)
    return PARAMETERS.replace('"function_params": {}', f'"function_params": {{{params}}}')


VENDOR_PAGE = ROOT.parent / "shared" / "vendor-notebook-page.txt"
REQUEST = """
import json
from libnova.common.nuclio.Request import Request
from libnova.common.api import File
request = Request(None, type("Event", (), {"body": json.dumps(json_sample)})())
request.job_init()
"""
TELL = REQUEST + "request.log(json.dumps(json_sample))\nrequest.job_end(True)"


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """
    An empty home: no test sees the settings of whoever runs it, and none leaves anything in them. Nor in the system's place for
    temporary files, where whatever a test kills leaves its own; what takes its place has a short path, as a socket's must be.
    """
    folder = tmp_path_factory.mktemp("home")
    base = tmp_path_factory.getbasetemp()
    # One for all processes of the tests: what is cached there, such as the list of fonts, takes its time.
    user = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "user"
    user.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="lsnb-t-", ignore_cleanup_errors=True) as temporary,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(user))
        patch.setenv("TMPDIR", temporary)
        patch.setattr(tempfile, "tempdir", temporary)
        for name in list(os.environ):
            if name.startswith("LIBSAFE_"):
                patch.delenv(name)
        patch.setenv("LIBSAFE_NB_HOME", str(folder / "state"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        yield folder


@pytest.fixture(scope="session")
def platform(home, tmp_path_factory):
    """A running local platform, shared by the tests; each makes the containers and jobs it needs."""
    with local.serve(tmp_path_factory.mktemp("platform")) as served:
        yield served


@pytest.fixture(scope="session")
def connection(platform):
    return connect(settings=platform.settings)


@pytest.fixture
def container(connection):
    """A container of the test's own."""
    return connection.client.create_container("test")["id"]


@pytest.fixture(scope="module")
def lab_place(platform, connection, tmp_path_factory):
    """The address of a running Lab, token and all, and its container."""
    container = connection.client.create_container("lab")["id"]
    with lab(container, variables(platform.settings), tmp_path_factory.mktemp("lab")) as address:
        yield address, container


@pytest.fixture(scope="session")
def vendor_sample():
    """The full code sample of the vendor's page, cut out when the tests run; it is not ours to commit."""
    if not VENDOR_PAGE.exists():
        pytest.skip("the vendor's page is not beside this checkout")
    page = VENDOR_PAGE.read_text()
    start = page.index("The full code sample:") + len("The full code sample:")
    return page[start : page.index("You can use your Jupyter Notebooks in the same way")].strip() + "\n"


def write_function(path, *cells, parameters=PARAMETERS, metadata=None):
    """Write a function notebook of the given cells (or their sources), after a parameters cell."""
    code = [each if isinstance(each, dict) else new_code_cell(each) for each in cells]
    head = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = new_notebook(cells=[head, *code], metadata={"kernelspec": spec, **(metadata or {})})
    nbformat.write(made, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    """Writes a function notebook of the given cells, after a parameters cell, and gives its path."""

    def notebook(*cells, name="f.ipynb"):
        return write_function(tmp_path / name, *cells)

    return notebook


@pytest.fixture
def run(platform, container):
    def run(path, **options):
        options.setdefault("container", container)
        return libsafe_nb.run(options.pop("payload", None), path, settings=platform.settings, **options)

    return run


@pytest.fixture
def stored(connection):
    def stored(run, name):
        prefix = run.evidence.removeprefix(f"libsafe://{run.container}/")
        return connection.storage.get(run.container, prefix + name)

    return stored


@pytest.fixture
def functions(connection):
    return Functions(connection.client)


@pytest.fixture
def publish(platform, tmp_path):
    """Publishes a function of the given cells, under a key of the test's own."""

    def publish(*cells, key=None, **options):
        key = key or f"f-{uuid.uuid4().hex[:8]}"
        path = write_function(tmp_path / f"{key}.ipynb", *cells, **options)
        return publishing.publish(path, settings=platform.settings)["key"]

    return publish


@pytest.fixture
def payload_of(connection):
    """The payload that a job of `TELL` had."""

    def payload_of(job):
        texts = [each["message"] for each in connection.client.messages(job)]
        return json.loads(next(text for text in texts if text.startswith("{")))

    return payload_of


@pytest.fixture(scope="module")
def browser():
    """Chromium, for one module: while playwright is at work, no other event loop can be run in the thread."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
